//! The table of the assets on a device: each is uploaded once, whoever asks first, and evicted when memory is short.
//!
//! Invariant: nothing is charged while the table is locked, because a charge may come back here for relief.

use super::file::AssetFile;
use super::resident::{AssetPin, ResidentAsset};
use super::upload::Uploader;
use crate::error::Error;
use crate::executor::Executor;
use crate::memory::MemoryQuota;
use crate::usage::Usage;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::sync::watch;

/// How an upload ended; none while it is under way.
type UploadState = Option<Result<Arc<ResidentAsset>, Error>>;

#[derive(Debug)]
enum Residency {
    Uploading(watch::Receiver<UploadState>),
    /// On the GPU, and when it was last used.
    Resident(Arc<ResidentAsset>, u64),
}

/// The assets of one device by digest.
#[derive(Debug)]
pub(crate) struct AssetTable {
    uploader: Uploader,
    entries: Mutex<HashMap<String, Residency>>,
    clock: AtomicU64,
    /// Asked when memory is short and no asset can go.
    last_resort: LastResort,
}

/// Frees something that is only kept for later, and returns whether there was anything.
#[derive(Default)]
struct LastResort(OnceLock<Box<dyn Fn() -> bool + Send + Sync>>);

impl std::fmt::Debug for LastResort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LastResort").field(&self.0.get().is_some()).finish()
    }
}

/// What of assets is on a GPU, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResidentTotals {
    /// How many.
    pub count: usize,
    /// How many bytes.
    pub bytes: u64,
}

impl AssetTable {
    /// An empty table, whose assets are charged to `memory` and make way when it is short.
    pub(crate) fn new(executor: Arc<Executor>, memory: &Arc<MemoryQuota>) -> Arc<Self> {
        let table = Arc::new(Self {
            uploader: Uploader::new(executor, Arc::clone(memory)),
            entries: Mutex::default(),
            clock: AtomicU64::new(0),
            last_resort: LastResort::default(),
        });
        let weak: Weak<Self> = Arc::downgrade(&table);
        memory.relieved_by(move |bytes| {
            let Some(table) = weak.upgrade() else { return false };
            table.relieve(bytes) || table.last_resort.0.get().is_some_and(|free| free())
        });
        table
    }

    /// Has `free` give back something when memory is short and no asset can go. Once.
    pub(crate) fn set_last_resort(&self, free: impl Fn() -> bool + Send + Sync + 'static) {
        // The caller that opened the device sets it once; a second call changes nothing.
        let _ = self.last_resort.0.set(Box::new(free));
    }

    /// What uploads to this device.
    pub(crate) fn uploader(&self) -> &Uploader {
        &self.uploader
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Residency>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings an asset to the GPU, if it is not there, without waiting for it. The GPU's time is charged to `payer`.
    pub(crate) fn prefetch(self: &Arc<Self>, asset: &Arc<AssetFile>, payer: Option<&Arc<Usage>>) {
        drop(self.make_resident(asset, payer));
    }

    /// Brings an asset to the GPU, if it is not there, and waits for it. The GPU's time is charged to `payer`.
    pub(crate) async fn resident(
        self: &Arc<Self>,
        asset: &Arc<AssetFile>,
        payer: Option<&Arc<Usage>>,
    ) -> Result<Arc<ResidentAsset>, Error> {
        match self.make_resident(asset, payer) {
            Ok(resident) => Ok(resident),
            Err(receiver) => uploaded(receiver).await,
        }
    }

    /// The same, and keeps it there until what is returned is dropped.
    pub(crate) async fn pin(self: &Arc<Self>, asset: &Arc<AssetFile>) -> Result<AssetPin, Error> {
        self.resident(asset, None).await.map(AssetPin)
    }

    /// Evicts unused assets whose digests `wanted` refuses.
    pub(crate) fn forget(&self, wanted: impl Fn(&str) -> bool) {
        let unwanted = |digest: &String, slot: &mut Residency| match slot {
            Residency::Resident(resident, _) => resident.is_unused() && !wanted(digest),
            Residency::Uploading(_) => false,
        };
        let gone: Vec<_> = self.entries().extract_if(unwanted).collect();
        drop(gone);
    }

    /// Evicts unused assets, the least recently used first, until `wanted` bytes are free. Returns whether it evicted any.
    pub(crate) fn relieve(&self, wanted: u64) -> bool {
        let mut gone = Vec::new();
        let mut freed = 0;
        {
            let mut entries = self.entries();
            while freed < wanted {
                let unused = entries.iter().filter_map(|(digest, slot)| match slot {
                    Residency::Resident(resident, used) if resident.is_unused() => Some((*used, digest)),
                    _ => None,
                });
                let Some(digest) = unused.min().map(|(_, digest)| digest.clone()) else { break };
                let Some(Residency::Resident(resident, _)) = entries.remove(&digest) else { break };
                freed += resident.bytes();
                gone.push(resident);
            }
        }
        // Their charges are given back here, after the table is free.
        !gone.is_empty()
    }

    /// How many are on the GPU, and their bytes.
    pub(crate) fn totals(&self) -> ResidentTotals {
        let entries = self.entries();
        let there = entries.values().filter_map(|slot| match slot {
            Residency::Resident(resident, _) => Some(resident.bytes()),
            Residency::Uploading(_) => None,
        });
        there.fold(ResidentTotals::default(), |sum, bytes| ResidentTotals {
            count: sum.count + 1,
            bytes: sum.bytes + bytes,
        })
    }

    /// Returns the asset if it is on the GPU. Otherwise starts its upload, unless one is running, and returns the channel
    /// that will hold its result.
    fn make_resident(
        self: &Arc<Self>,
        asset: &Arc<AssetFile>,
        payer: Option<&Arc<Usage>>,
    ) -> Result<Arc<ResidentAsset>, watch::Receiver<UploadState>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries();
        match entries.get_mut(asset.digest()) {
            Some(Residency::Resident(resident, used)) => {
                *used = now;
                return Ok(Arc::clone(resident));
            }
            Some(Residency::Uploading(receiver)) => return Err(receiver.clone()),
            None => {}
        }
        let (sender, receiver) = watch::channel(None);
        entries.insert(asset.digest().to_owned(), Residency::Uploading(receiver.clone()));
        drop(entries);
        let (table, asset, payer) = (Arc::clone(self), Arc::clone(asset), payer.cloned());
        let paid = payer.as_ref().and_then(|payer| payer.uploads.begin());
        // A task of its own: the request that asked first may end while others wait for the upload. If nobody waits any
        // more, the upload is given up.
        tokio::spawn(async move {
            let given_up = AtomicBool::new(false);
            let wanted = || {
                if payer.as_ref().is_none_or(|payer| !payer.cancelled.load(Ordering::Relaxed)) {
                    return true;
                }
                // One receiver is the table's, and others are made while it is locked.
                let mut entries = table.entries();
                if sender.receiver_count() > 1 {
                    return true;
                }
                entries.remove(asset.digest());
                given_up.store(true, Ordering::Relaxed);
                false
            };
            let result = table.uploader.upload(&asset, payer.as_deref(), &wanted).await.map(Arc::new);
            if !given_up.into_inner() {
                let mut entries = table.entries();
                match &result {
                    Ok(resident) => {
                        entries.insert(asset.digest().to_owned(), Residency::Resident(Arc::clone(resident), now))
                    }
                    // The next one tries again.
                    Err(_) => entries.remove(asset.digest()),
                };
            }
            sender.send_replace(Some(result));
            drop(paid);
        });
        Err(receiver)
    }
}

/// Waits for an upload.
async fn uploaded(mut receiver: watch::Receiver<UploadState>) -> Result<Arc<ResidentAsset>, Error> {
    let state = receiver.wait_for(Option::is_some).await.map_err(|_| Error::lost())?;
    state.clone().unwrap_or_else(|| Err(Error::lost()))
}
