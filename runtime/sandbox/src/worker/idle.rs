//! Instances that wait for their next request, of versions that say `instance_reuse`.
//!
//! Each holds one of the worker's places for instances, and what it has on the GPU. They are let go, the longest waiting first,
//! when a place or GPU memory is wanted, or when all of them have too much memory, and all of a version's when the version is
//! forgotten.

use crate::worker::guest::Guest;
use gannet_base::hop::VersionKey;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

/// Instances that wait in one worker.
const WAITING_MAX: usize = 64;
/// What their memories may have together.
const WAITING_BYTES_MAX: usize = 1 << 30;

/// An instance between two requests. Its memory is freed before its place is given back.
pub(crate) struct IdleInstance {
    pub(crate) store: Store<Guest>,
    pub(crate) proxy: Proxy,
    /// Requests that it has served.
    pub(crate) served: u64,
    pub(crate) place: OwnedSemaphorePermit,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Idle {
    waiting: Mutex<VecDeque<(VersionKey, IdleInstance)>>,
    /// Requests that wait for a place.
    wanted: AtomicUsize,
}

/// A request that waits for a place, until it has one or is gone.
struct Wanting<'a>(&'a AtomicUsize);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Idle {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<(VersionKey, IdleInstance)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance of a version that served last, if one waits.
    pub(crate) fn take(&self, version: VersionKey) -> Option<IdleInstance> {
        let mut waiting = self.waiting();
        let at = waiting.iter().rposition(|(of, _)| *of == version)?;
        waiting.remove(at).map(|(_, instance)| instance)
    }

    /// Keeps an instance for its next request.
    pub(crate) fn put(&self, version: VersionKey, instance: IdleInstance) {
        let mut waiting = self.waiting();
        waiting.push_back((version, instance));
        let bytes = |(_, instance): &(VersionKey, IdleInstance)| instance.store.data().memory.used();
        let mut all: usize = waiting.iter().map(bytes).sum();
        let mut gone = Vec::new();
        while waiting.len() > WAITING_MAX || all > WAITING_BYTES_MAX {
            let Some(first) = waiting.pop_front() else { break };
            all -= bytes(&first);
            gone.push(first);
        }
        drop(waiting);
        // Dropped without the lock: freeing memory takes a while.
        drop(gone);
        // Looked at when it is there to be found by whoever begins to wait now.
        if self.wanted.load(Ordering::SeqCst) > 0 {
            self.free();
        }
    }

    /// Lets the one go that has waited longest, and answers whether there was one.
    pub(crate) fn free(&self) -> bool {
        let gone = self.waiting().pop_front();
        gone.is_some()
    }

    /// Lets all of a version go.
    pub(crate) fn forget(&self, version: VersionKey) {
        let mut waiting = self.waiting();
        let (gone, stay) = std::mem::take(&mut *waiting).into_iter().partition::<Vec<_>, _>(|(of, _)| *of == version);
        *waiting = stay.into();
        drop(waiting);
        drop(gone);
    }

    /// A place for an instance: one that is free, or that of an instance that is let go for it, now or when it ends.
    pub(crate) async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        // Counted before it is looked for one to let go, so that one that ends meanwhile is not kept.
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let _wanting = Wanting(&self.wanted);
        self.free();
        // Closed semaphores do not happen: nobody closes it.
        Arc::clone(places).acquire_owned().await.ok()
    }
}
