//! A store of blobs for tests, in memory. It fails when it is told to.

use super::StoreFuture;
use super::blobs::BlobStore;
use super::local::blobs::digest_of;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The store; see the module. What it stored survives everything.
#[derive(Debug, Default)]
pub struct SimulatedBlobs {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    next_faults: VecDeque<io::ErrorKind>,
}

impl SimulatedBlobs {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets one of the next calls fail, and do nothing: the first call of this is for the next one, and so on.
    pub fn fail_next(&self, kind: io::ErrorKind) {
        self.locked().next_faults.push_back(kind);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> T) -> io::Result<T> {
        let mut state = self.locked();
        match state.next_faults.pop_front() {
            Some(kind) => Err(kind.into()),
            None => Ok(work(&mut state.blobs)),
        }
    }
}

impl BlobStore for SimulatedBlobs {
    fn put(&self, bytes: Vec<u8>) -> StoreFuture<'_, io::Result<String>> {
        Box::pin(async move {
            let digest = digest_of(&bytes);
            self.call(|blobs| blobs.insert(digest.clone(), bytes))?;
            Ok(digest)
        })
    }

    fn get<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move { self.call(|blobs| blobs.get(digest).cloned()) })
    }

    fn delete<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<()>> {
        Box::pin(async move { self.call(|blobs| drop(blobs.remove(digest))) })
    }

    fn list(&self) -> StoreFuture<'_, io::Result<Vec<String>>> {
        Box::pin(async move { self.call(|blobs| blobs.keys().cloned().collect()) })
    }
}
