//! Instances that wait for a request: those that have served one, of versions with `instance_reuse`, and those that were
//! prepared ([`crate::worker::preparation`]).
//!
//! Each keeps its memory, its GPU resources and its instance permit. Instances are evicted when a request waits for a
//! permit, or when together they exceed a limit of this file: those that were prepared first, of these the longest idle
//! first. When GPU memory is wanted, the longest idle of those with GPU memory is evicted. Instances of an unloaded
//! version are evicted too. An idle instance must never make a request wait.

use crate::guest::GuestState;
use crate::worker::version::Handler;
use gannet_base::hop::VersionKey;
use gannet_base::manifest::INSTANCES_MAX as PERMITS;
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
/// The most linear memory that those together may have that were prepared.
const PREPARED_BYTES_MAX: usize = 256 << 20;
/// With fewer permits free, the worker is busy, and requests need them.
const PERMITS_LEFT_MIN: usize = PERMITS as usize / 4;

/// An instance that waits for a request. The order of the fields frees its memory before its permit.
pub(crate) struct IdleInstance {
    pub(crate) store: Store<GuestState>,
    pub(crate) handler: Handler,
    pub(crate) requests_served: u64,
    /// CPU time that no request has paid for yet: that of its preparation.
    pub(crate) unpaid_cpu: Duration,
    pub(crate) permit: OwnedSemaphorePermit,
}

impl IdleInstance {
    /// Whether it was made ahead and has served no request.
    fn is_prepared(&self) -> bool {
        self.requests_served == 0
    }
}

type Instances = VecDeque<(VersionKey, IdleInstance)>;

/// The linear memory of some of the instances.
fn bytes_of(instances: &Instances, of: impl Fn(&IdleInstance) -> bool) -> usize {
    instances.iter().filter(|(_, instance)| of(instance)).map(|(_, instance)| instance.store.data().memory.used()).sum()
}

/// Removes the instance that is missed least: the longest idle of those that were prepared, because a request can
/// make another. If there is none, the longest idle of all.
fn remove_first(instances: &mut Instances) -> Option<IdleInstance> {
    let prepared = instances.iter().position(|(_, instance)| instance.is_prepared());
    instances.remove(prepared.unwrap_or(0)).map(|(_, instance)| instance)
}

/// The idle instances of a worker.
#[derive(Default)]
pub(crate) struct IdleInstances {
    /// The longest idle first.
    instances: Mutex<Instances>,
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
    fn lock(&self) -> MutexGuard<'_, Instances> {
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
        let mut evicted = Vec::new();
        while instances.len() > INSTANCES_MAX
            || bytes_of(&instances, |_| true) > MEMORY_BYTES_MAX
            || bytes_of(&instances, IdleInstance::is_prepared) > PREPARED_BYTES_MAX
        {
            let Some(first) = remove_first(&mut instances) else { break };
            evicted.push(first);
        }
        drop(instances);
        // Freeing memory takes a while, so the lock is not held.
        drop(evicted);
        // Checked after the instance was added: a request that begins to wait after this check finds the instance
        // itself.
        if self.waiting_requests.load(Ordering::SeqCst) > 0 {
            self.evict_first();
        }
    }

    /// Drops the instance that is missed least.
    fn evict_first(&self) {
        let evicted = remove_first(&mut self.lock());
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

    /// Acquires a permit for an instance that no request waits for. Returns none where requests may need it soon.
    pub(crate) fn spare_permit(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let is_spare = permits.available_permits() >= PERMITS_LEFT_MIN;
        let nobody_waits = self.waiting_requests.load(Ordering::SeqCst) == 0;
        Arc::clone(permits).try_acquire_owned().ok().filter(|_| is_spare && nobody_waits)
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
        self.evict_first();
        // It fails only if the semaphore is closed, which never happens.
        Arc::clone(permits).acquire_owned().await.ok()
    }
}
