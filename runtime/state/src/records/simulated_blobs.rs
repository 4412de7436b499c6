//! A store of blobs for tests, in memory. It fails when it is told to. Files of this machine are made when they are asked
//! for, as by a store that is elsewhere.

use super::StoreFuture;
use super::blobs::{BlobKind, BlobStore, TenantBlobs};
use super::local::blobs::digest_of;
use gannet_base::names::TenantName;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The store; see the module. What it stored survives everything.
#[derive(Debug, Default)]
pub struct SimulatedBlobs {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    next_faults: VecDeque<io::ErrorKind>,
    files: Option<LocalFiles>,
}

/// A folder of the system's temporary folder, which goes with the store.
#[derive(Debug)]
struct LocalFiles(PathBuf);

impl LocalFiles {
    fn new() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("gannet-simulated-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for LocalFiles {
    fn drop(&mut self) {
        // What is left is for the system to remove.
        let _ = std::fs::remove_dir_all(&self.0);
    }
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

    fn put_file<'a>(&'a self, file: &'a Path, digest: &'a str) -> StoreFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let bytes = std::fs::read(file)?;
            self.call(|blobs| drop(blobs.insert(digest.to_owned(), bytes)))
        })
    }

    fn get<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move { self.call(|blobs| blobs.get(digest).cloned()) })
    }

    fn size<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<u64>>> {
        Box::pin(async move { self.call(|blobs| blobs.get(digest).map(|bytes| bytes.len() as u64)) })
    }

    fn local_file<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<PathBuf>>> {
        Box::pin(async move {
            let Some(bytes) = self.call(|blobs| blobs.get(digest).cloned())? else { return Ok(None) };
            let mut state = self.locked();
            let files = match state.files.take() {
                Some(files) => files,
                None => LocalFiles::new()?,
            };
            let path = state.files.insert(files).0.join(digest);
            std::fs::write(&path, bytes)?;
            Ok(Some(path))
        })
    }

    fn delete<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<()>> {
        Box::pin(async move { self.call(|blobs| drop(blobs.remove(digest))) })
    }

    fn list(&self) -> StoreFuture<'_, io::Result<Vec<String>>> {
        Box::pin(async move { self.call(|blobs| blobs.keys().cloned().collect()) })
    }
}

/// The blobs of tenants, each in a store of its own; see the module.
#[derive(Debug, Default)]
pub struct SimulatedTenantBlobs {
    stores: Mutex<BTreeMap<(BlobKind, String), Arc<SimulatedBlobs>>>,
}

impl SimulatedTenantBlobs {
    /// Returns the blobs of one kind of a tenant.
    pub fn store(&self, kind: BlobKind, tenant: &TenantName) -> Arc<SimulatedBlobs> {
        Arc::clone(self.locked().entry((kind, tenant.to_string())).or_default())
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<(BlobKind, String), Arc<SimulatedBlobs>>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TenantBlobs for SimulatedTenantBlobs {
    fn of(&self, kind: BlobKind, tenant: &TenantName) -> Arc<dyn BlobStore> {
        self.store(kind, tenant)
    }

    fn tenants(&self, kind: BlobKind) -> StoreFuture<'_, io::Result<Vec<String>>> {
        let stores = self.locked();
        let has_some = stores.iter().filter(|((known, _), store)| *known == kind && !store.locked().blobs.is_empty());
        let known = has_some.map(|((_, tenant), _)| tenant.clone()).collect();
        Box::pin(async move { Ok(known) })
    }

    fn remove_tenant(&self, tenant: &TenantName) -> StoreFuture<'_, io::Result<()>> {
        self.locked().retain(|(_, owner), _| owner != tenant.as_str());
        Box::pin(async { Ok(()) })
    }
}
