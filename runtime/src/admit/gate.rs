//! The places of one version's concurrent requests, and the places of the whole server.
//!
//! Deadlocks: a request takes a place of its version first and one of the server second. Whoever has both runs to its end
//! and waits for nobody; so places of the server become free, and then those of versions.

use super::AdmitError;
use super::fair::{Asked, Places};
use crate::manifest::Limits;
use crate::names::TenantName;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// The places of one version.
#[derive(Debug)]
pub struct Gate {
    places: Arc<Semaphore>,
    concurrency: u64,
}

impl Gate {
    /// A gate with the limits in force.
    pub fn new(limits: &Limits) -> Arc<Self> {
        let places = usize::try_from(limits.concurrency).unwrap_or(1);
        Arc::new(Self { places: Arc::new(Semaphore::new(places)), concurrency: limits.concurrency })
    }

    /// A place, if one is free.
    pub(super) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Waits for a place.
    pub(super) async fn enter(&self, until: Instant, queue_ms: u64) -> Result<OwnedSemaphorePermit, AdmitError> {
        match timeout_at(until, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(AdmitError::WaitedTooLong { queue_ms, concurrency: self.concurrency }),
        }
    }
}

/// Whose a waiter is, and how it is told.
type Waiter = (TenantName, oneshot::Sender<NodePlace>);

/// The places of the whole server: they bound its memory, and are shared fairly when they are all taken.
#[derive(Debug)]
pub struct Node {
    places: Mutex<Places<Waiter>>,

    waiting_max: usize,
}

/// A place of the server, until it is dropped.
#[derive(Debug)]
pub struct NodePlace {
    node: Arc<Node>,
    tenant: Option<TenantName>,
}

impl Node {
    /// So many places, and so many that may wait for one.
    pub fn new(limit: usize, waiting_max: usize) -> Arc<Self> {
        Arc::new(Self { places: Mutex::new(Places::new(limit)), waiting_max })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Places<Waiter>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if one is free. Whoever waits has been given all that were.
    pub(super) fn try_enter(self: &Arc<Self>, tenant: &TenantName) -> Option<NodePlace> {
        let taken = self.lock().take_free(tenant);
        taken.then(|| NodePlace { node: Arc::clone(self), tenant: Some(tenant.clone()) })
    }

    /// A place, after a wait if all are taken.
    pub(crate) async fn enter(self: &Arc<Self>, tenant: &TenantName, until: Instant) -> Result<NodePlace, AdmitError> {
        let full = AdmitError::NodeFull;
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut places = self.lock();
            if places.waiting() >= self.waiting_max {
                return Err(full);
            }
            match places.ask(tenant, (tenant.clone(), sender)) {
                Asked::Free(_) => return Ok(NodePlace { node: Arc::clone(self), tenant: Some(tenant.clone()) }),
                Asked::Waits(number) => number,
            }
        };
        let leaving = Leaving { node: self, tenant, number };
        let place = timeout_at(until, receiver).await;
        // A place that was sent meanwhile is dropped with the receiver, and so given back.
        drop(leaving);
        place.ok().and_then(Result::ok).ok_or(full)
    }
}

/// Leaves the queue, also when whoever waited is gone.
struct Leaving<'a> {
    node: &'a Arc<Node>,
    tenant: &'a TenantName,
    number: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.node.lock().leave(self.tenant, self.number);
    }
}

impl Drop for NodePlace {
    fn drop(&mut self) {
        let mut owner = self.tenant.take();
        // A waiter that has just left does not take its place; then the next one does.
        while let Some(tenant) = owner.take() {
            let waiter = self.node.lock().give_back(&tenant);
            let Some((next, sender)) = waiter else { return };
            let place = NodePlace { node: Arc::clone(&self.node), tenant: Some(next) };
            if let Err(mut unsent) = sender.send(place) {
                owner = unsent.tenant.take();
            }
        }
    }
}

/// How long a wait may be.
pub(super) fn until(queue_ms: u64, deadline: Instant) -> Instant {
    deadline.min(Instant::now() + Duration::from_millis(queue_ms))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> TenantName {
        TenantName::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_wait_ends_with_a_place_or_at_its_limit() {
        let gate = Gate::new(&Limits { concurrency: 1, ..Limits::default() });
        let first = gate.try_enter().unwrap();
        let now = Instant::now();
        assert!(matches!(gate.enter(now, 1).await, Err(AdmitError::WaitedTooLong { queue_ms: 1, concurrency: 1 })));
        drop(first);
        assert!(gate.enter(now + Duration::from_secs(9), 1).await.is_ok());
    }

    #[tokio::test]
    async fn a_place_of_the_server_goes_to_the_tenant_that_has_fewest_and_none_is_lost() {
        let node = Node::new(2, 9);
        let later = Instant::now() + Duration::from_secs(60);
        let held = [node.try_enter(&name("a")).unwrap(), node.try_enter(&name("a")).unwrap()];
        assert!(node.try_enter(&name("b")).is_none());
        let wait = |tenant: &str| {
            let (node, tenant) = (Arc::clone(&node), name(tenant));
            tokio::spawn(async move { node.enter(&tenant, later).await })
        };
        let more = wait("a");
        while node.lock().waiting() < 1 {
            tokio::task::yield_now().await;
        }
        let other = wait("b");
        while node.lock().waiting() < 2 {
            tokio::task::yield_now().await;
        }
        let [first, second] = held;
        drop(first);
        let other = other.await.unwrap().unwrap();
        assert!(!more.is_finished());
        more.abort();
        let _ = more.await;
        drop((second, other));
        assert!(node.try_enter(&name("c")).is_some() && node.lock().waiting() == 0);
        assert!(node.enter(&name("c"), Instant::now()).await.is_ok());
    }
}
