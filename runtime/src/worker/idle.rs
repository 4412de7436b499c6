//! Instances that wait for their next request, of versions that say `instance_reuse`.
//!
//! Each holds one of the worker's places for instances, and what it has on the GPU. They are let go, the longest waiting first,
//! when a place or GPU memory is wanted, and all of a version's when the version is forgotten.

use crate::hop::VersionKey;
use crate::worker::state::Guest;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

/// Instances that wait in one worker.
const WAITING_MAX: usize = 64;

/// An instance between two requests. Its memory is freed before its place is given back.
pub(crate) struct Waiting {
    pub(crate) store: Store<Guest>,
    pub(crate) proxy: Proxy,
    /// Requests that it has served.
    pub(crate) served: u64,
    pub(crate) place: OwnedSemaphorePermit,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Idle(Mutex<VecDeque<(VersionKey, Waiting)>>);

impl Idle {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<(VersionKey, Waiting)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance of a version that served last, if one waits.
    pub(crate) fn take(&self, version: VersionKey) -> Option<Waiting> {
        let mut waiting = self.waiting();
        let at = waiting.iter().rposition(|(of, _)| *of == version)?;
        waiting.remove(at).map(|(_, instance)| instance)
    }

    /// Keeps an instance for its next request.
    pub(crate) fn put(&self, version: VersionKey, instance: Waiting) {
        let mut waiting = self.waiting();
        waiting.push_back((version, instance));
        let gone = (waiting.len() > WAITING_MAX).then(|| waiting.pop_front());
        drop(waiting);
        // Dropped without the lock: freeing memory takes a while.
        drop(gone);
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

    /// A place for an instance. The front door admits fewer requests than there are places, so this waits for none but those
    /// of instances that are let go here.
    pub(crate) async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        loop {
            match Arc::clone(places).try_acquire_owned() {
                Ok(place) => return Some(place),
                Err(_) if self.free() => {}
                // Closed semaphores do not happen: nobody closes it.
                Err(_) => return Arc::clone(places).acquire_owned().await.ok(),
            }
        }
    }
}
