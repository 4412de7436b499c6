//! Instances that wait for a request: those that have served one, of versions with `instance_reuse`, and those that were
//! prepared ([`crate::worker::preparation`]).
//!
//! Each keeps its memory, its GPU resources and its instance permit. The longest idle instance is evicted when a
//! request waits for a permit, when GPU memory is wanted, or when together they exceed a limit of this file. Instances
//! of an unloaded version are evicted too. An idle instance must never make a request wait.

use crate::guest::GuestState;
use crate::worker::version::Handler;
use gannet_base::hop::VersionKey;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;

/// The most idle instances of a worker.
const INSTANCES_MAX: usize = 64;
/// The most linear memory that they may have together.
const MEMORY_BYTES_MAX: usize = 1 << 30;

/// An instance that waits for a request. The order of the fields frees its memory before its permit.
pub(crate) struct IdleInstance {
    pub(crate) store: Store<GuestState>,
    pub(crate) handler: Handler,
    pub(crate) requests_served: u64,
    /// CPU time that no request has paid for yet: that of its preparation.
    pub(crate) unpaid_cpu: Duration,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The idle instances of a worker.
#[derive(Default)]
pub(crate) struct IdleInstances {
    /// The longest idle first.
    instances: Mutex<VecDeque<(VersionKey, IdleInstance)>>,
    /// Requests that wait for a permit.
    waiting_requests: AtomicUsize,
}

/// Counts a request as waiting for a permit, until it has one or is cancelled.
struct WaitingRequest<'a>(&'a AtomicUsize);

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl IdleInstances {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(VersionKey, IdleInstance)>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a version has an idle instance.
    pub(crate) fn has(&self, version: VersionKey) -> bool {
        self.lock().iter().any(|(of, _)| *of == version)
    }

    /// Takes the instance of a version that became idle last, if there is one.
    pub(crate) fn take(&self, version: VersionKey) -> Option<IdleInstance> {
        let mut instances = self.lock();
        let index = instances.iter().rposition(|(of, _)| *of == version)?;
        instances.remove(index).map(|(_, instance)| instance)
    }

    /// Keeps an instance for a request.
    pub(crate) fn keep(&self, version: VersionKey, instance: IdleInstance) {
        let mut instances = self.lock();
        instances.push_back((version, instance));
        let bytes = |(_, instance): &(VersionKey, IdleInstance)| instance.store.data().memory.used();
        let mut total: usize = instances.iter().map(bytes).sum();
        let mut evicted = Vec::new();
        while instances.len() > INSTANCES_MAX || total > MEMORY_BYTES_MAX {
            let Some(oldest) = instances.pop_front() else { break };
            total -= bytes(&oldest);
            evicted.push(oldest);
        }
        drop(instances);
        // Freeing memory takes a while, so the lock is not held.
        drop(evicted);
        // Checked after the instance was added: a request that begins to wait after this check finds the instance
        // itself.
        if self.waiting_requests.load(Ordering::SeqCst) > 0 {
            self.evict_oldest();
        }
    }

    /// Drops the instance that has been idle longest.
    fn evict_oldest(&self) {
        let evicted = self.lock().pop_front();
        drop(evicted);
    }

    /// Drops the instance that has been idle longest of those with GPU memory. Returns whether there was one.
    pub(crate) fn evict_oldest_on_gpu(&self) -> bool {
        let mut instances = self.lock();
        let index = instances.iter().position(|(_, instance)| instance.store.data().gpu.get().is_some());
        let evicted = index.and_then(|index| instances.remove(index));
        drop(instances);
        evicted.is_some()
    }

    /// Drops all instances of a version.
    pub(crate) fn evict_version(&self, version: VersionKey) {
        let mut instances = self.lock();
        let (evicted, kept) =
            std::mem::take(&mut *instances).into_iter().partition::<Vec<_>, _>(|(of, _)| *of == version);
        *instances = kept.into();
        drop(instances);
        drop(evicted);
    }

    /// Acquires a permit for an instance. If none is free, an idle instance is evicted: now, or as soon as there is
    /// one.
    pub(crate) async fn acquire_permit(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Some(permit);
        }
        // Counted before the eviction, so that an instance that becomes idle in between is evicted too.
        self.waiting_requests.fetch_add(1, Ordering::SeqCst);
        let _waiting = WaitingRequest(&self.waiting_requests);
        self.evict_oldest();
        // It fails only if the semaphore is closed, which never happens.
        Arc::clone(permits).acquire_owned().await.ok()
    }
}
