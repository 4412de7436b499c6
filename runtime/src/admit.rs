//! Step 4: a place among the function's concurrent requests, after a bounded wait in order of
//! arrival; then the tab is opened.
//!
//! Who waits holds nothing that another waiter needs, so each wait ends when a running request does,
//! or at `queue_ms`. The place is held until the last byte of the response has left.

use crate::inbound::Inbound;
use crate::manifest::Limits;
use crate::meter::{Book, Tab};
use crate::pool::Pool;
use crate::respond::{Refused, ResponseBody};
use crate::route::Target;
use http::Response;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that may wait for one function.
const WAITING_MAX: usize = 256;
/// Requests in the front door at once, of all tenants: it bounds memory, not fairness.
const NODE_MAX: usize = 4096;

/// Requests of one tenant, waiting or running: an eighth of the whole, so that no tenant fills it.
pub const TENANT_MAX: usize = NODE_MAX / 8;

/// Why a request was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Too many wait already.
    #[error("{waiting} requests wait for this function already; the limit is {WAITING_MAX}")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// No place became free in time.
    #[error("no place became free within {queue_ms} ms; the function runs {concurrency} requests at once")]
    WaitedTooLong {
        /// How long it waited.
        queue_ms: u64,
        /// How many run.
        concurrency: u64,
    },
    /// The tenant has its whole share of the server in flight.
    #[error("the tenant has {TENANT_MAX} requests in flight; that is its limit")]
    TenantFull {},
    /// The server as a whole is full.
    #[error("the server has {NODE_MAX} requests in flight; that is its limit")]
    NodeFull {},
}

/// The places of one function.
#[derive(Debug)]
pub struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    concurrency: u64,
    queue_ms: u64,
}

impl Gate {
    /// A gate with the manifest's limits.
    pub fn new(limits: &Limits) -> Arc<Self> {
        let places = usize::try_from(limits.concurrency).unwrap_or(1);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places)),
            waiting: AtomicUsize::new(0),
            concurrency: limits.concurrency,
            queue_ms: limits.queue_ms,
        })
    }

    /// Waits for a place.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, AdmitError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(&self.waiting);
        if waiting >= WAITING_MAX {
            return Err(AdmitError::QueueFull { waiting });
        }
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(Duration::from_millis(self.queue_ms), place).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(AdmitError::WaitedTooLong { queue_ms: self.queue_ms, concurrency: self.concurrency }),
        }
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request holds from here to its last byte.
#[derive(Debug)]
pub struct Admitted {
    /// What it is charged on.
    pub tab: Tab,
    /// Given back when this is dropped.
    pub places: [OwnedSemaphorePermit; 3],
}

/// The step.
#[derive(Debug)]
pub struct Admit {
    node: Arc<Semaphore>,
    book: Arc<Book>,
    next: Pool,
}

impl Admit {
    /// The step, with the next one inside it.
    pub fn new(book: Arc<Book>, next: Pool) -> Self {
        Self { node: Arc::new(Semaphore::new(NODE_MAX)), book, next }
    }

    /// Admits the request and sends it on.
    pub async fn call(&self, inbound: Inbound, target: Target) -> Result<Response<ResponseBody>, Refused> {
        let began = Instant::now();
        let version = &target.function.current;
        if let Err(error) = inbound.check_length(version.manifest().limits.body_mib.saturating_mul(1 << 20)) {
            crate::inbound::discard(inbound.body).await;
            return Err(error.into());
        }
        let own = Arc::clone(&target.share).try_acquire_owned().map_err(|_| AdmitError::TenantFull {})?;
        let node = Arc::clone(&self.node).try_acquire_owned().map_err(|_| AdmitError::NodeFull {})?;
        let place = target.function.gate.enter().await?;
        let mut tab =
            Tab::open(&self.book, inbound.id, version.tenant.clone(), version.function.clone(), version.record.number);
        tab.note(|receipt| receipt.admit_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.next.call(inbound, target, Admitted { tab, places: [own, node, place] }).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_a_place_or_at_its_limit() {
        let gate = Gate::new(&Limits { concurrency: 1, queue_ms: 1, ..Limits::default() });
        let first = gate.enter().await.unwrap();
        assert!(matches!(gate.enter().await, Err(AdmitError::WaitedTooLong { queue_ms: 1, concurrency: 1 })));
        drop(first);
        assert!(gate.enter().await.is_ok());
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }
}
