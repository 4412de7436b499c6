//! The table of the assets on a device. Each asset is uploaded once, however many ask for it, and evicted when memory
//! is short.
//!
//! Invariant: nothing is charged while the table is locked, because a charge may call [`AssetTable::relieve`], which
//! locks the table.

use super::file::AssetFile;
use super::resident::{AssetPin, ResidentAsset};
use super::upload::Uploader;
use crate::error::Error;
use crate::executor::Executor;
use crate::memory::MemoryQuota;
use crate::usage::Usage;
use lru::LruCache;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::sync::watch;

/// The result of an upload; None while it runs.
type UploadState = Option<Result<Arc<ResidentAsset>, Error>>;

#[derive(Debug)]
enum Residency {
    Uploading(watch::Receiver<UploadState>),
    /// The asset is on the GPU.
    Resident(Arc<ResidentAsset>),
}

/// The assets of one device by digest.
#[derive(Debug)]
pub(crate) struct AssetTable {
    uploader: Uploader,
    /// In the order of their last use. Memory limits them, not their number.
    entries: Mutex<LruCache<String, Residency>>,
    /// Called when memory is short and no asset can be evicted.
    last_resort: LastResort,
}

/// A function that frees something that is only kept for later use, and returns whether there was anything.
#[derive(Default)]
struct LastResort(OnceLock<Box<dyn Fn() -> bool + Send + Sync>>);

impl std::fmt::Debug for LastResort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LastResort").field(&self.0.get().is_some()).finish()
    }
}

/// Number and size of the assets on a GPU, for statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResidentTotals {
    /// Number of assets.
    pub count: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl AssetTable {
    /// Makes an empty table. Its assets are charged to `memory` and evicted when `memory` is short.
    pub(crate) fn new(executor: Arc<Executor>, memory: &Arc<MemoryQuota>) -> Arc<Self> {
        let table = Arc::new(Self {
            uploader: Uploader::new(executor, Arc::clone(memory)),
            entries: Mutex::new(LruCache::unbounded()),
            last_resort: LastResort::default(),
        });
        let weak: Weak<Self> = Arc::downgrade(&table);
        memory.relieved_by(move |bytes| {
            let Some(table) = weak.upgrade() else { return false };
            table.relieve(bytes) || table.last_resort.0.get().is_some_and(|free| free())
        });
        table
    }

    /// Sets the function that is called when memory is short and no asset can be evicted. Only the first call has an
    /// effect.
    pub(crate) fn set_last_resort(&self, free: impl Fn() -> bool + Send + Sync + 'static) {
        // The code that opened the device sets it once. A second call has no effect.
        let _ = self.last_resort.0.set(Box::new(free));
    }

    /// The uploader of this device.
    pub(crate) fn uploader(&self) -> &Uploader {
        &self.uploader
    }

    fn entries(&self) -> MutexGuard<'_, LruCache<String, Residency>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to upload an asset, if it is not on the GPU, and does not wait for it. The GPU time is charged to
    /// `payer`.
    pub(crate) fn prefetch(self: &Arc<Self>, asset: &Arc<AssetFile>, payer: Option<&Arc<Usage>>) {
        drop(self.make_resident(asset, payer));
    }

    /// Uploads an asset, if it is not on the GPU, and waits for it. The GPU time is charged to `payer`.
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

    /// Like [`AssetTable::resident`], but nobody pays for the GPU time. The asset stays on the GPU until the pin is
    /// dropped.
    pub(crate) async fn pin(self: &Arc<Self>, asset: &Arc<AssetFile>) -> Result<AssetPin, Error> {
        self.resident(asset, None).await.map(AssetPin)
    }

    /// Evicts unused assets for whose digest `wanted` returns false.
    pub(crate) fn forget(&self, wanted: impl Fn(&str) -> bool) {
        let unwanted = |(digest, slot): (&String, &Residency)| match slot {
            Residency::Resident(resident) if resident.is_unused() && !wanted(digest) => Some(digest.clone()),
            _ => None,
        };
        let mut entries = self.entries();
        let digests: Vec<String> = entries.iter().filter_map(unwanted).collect();
        let gone: Vec<_> = digests.iter().filter_map(|digest| entries.pop(digest)).collect();
        drop(entries);
        drop(gone);
    }

    /// Evicts unused assets, the least recently used first, until `wanted` bytes are free. Returns whether it evicted
    /// any.
    pub(crate) fn relieve(&self, wanted: u64) -> bool {
        let mut gone = Vec::new();
        let mut freed = 0;
        {
            let mut entries = self.entries();
            while freed < wanted {
                let unused = |slot: &Residency| matches!(slot, Residency::Resident(asset) if asset.is_unused());
                // The least recently used is the last.
                let Some((digest, _)) = entries.iter().rev().find(|(_, slot)| unused(slot)) else { break };
                let digest = digest.clone();
                let Some(Residency::Resident(resident)) = entries.pop(&digest) else { break };
                freed += resident.bytes();
                gone.push(resident);
            }
        }
        // Their charges are returned here, when the table is no longer locked.
        !gone.is_empty()
    }

    /// Returns the number of assets on the GPU, and their size.
    pub(crate) fn totals(&self) -> ResidentTotals {
        let entries = self.entries();
        let there = entries.iter().filter_map(|(_, slot)| match slot {
            Residency::Resident(resident) => Some(resident.bytes()),
            Residency::Uploading(_) => None,
        });
        there.fold(ResidentTotals::default(), |sum, bytes| ResidentTotals {
            count: sum.count + 1,
            bytes: sum.bytes + bytes,
        })
    }

    /// Returns the asset if it is on the GPU. Otherwise starts its upload, unless one is running, and returns the
    /// channel that will hold its result.
    fn make_resident(
        self: &Arc<Self>,
        asset: &Arc<AssetFile>,
        payer: Option<&Arc<Usage>>,
    ) -> Result<Arc<ResidentAsset>, watch::Receiver<UploadState>> {
        let mut entries = self.entries();
        match entries.get(asset.digest()) {
            Some(Residency::Resident(resident)) => return Ok(Arc::clone(resident)),
            Some(Residency::Uploading(receiver)) => return Err(receiver.clone()),
            None => {}
        }
        let (sender, receiver) = watch::channel(None);
        entries.put(asset.digest().to_owned(), Residency::Uploading(receiver.clone()));
        drop(entries);
        let (table, asset, payer) = (Arc::clone(self), Arc::clone(asset), payer.cloned());
        let paid = payer.as_ref().and_then(|payer| payer.uploads.begin());
        // The upload runs in a task of its own, because the request that asked first may end while others wait for it.
        // When nobody waits any more, the upload is cancelled.
        tokio::spawn(async move {
            let given_up = AtomicBool::new(false);
            let wanted = || {
                if payer.as_ref().is_none_or(|payer| !payer.cancelled.load(Ordering::Relaxed)) {
                    return true;
                }
                // One receiver is in the table. Others are only made while the table is locked, so the count is exact.
                let mut entries = table.entries();
                if sender.receiver_count() > 1 {
                    return true;
                }
                entries.pop(asset.digest());
                given_up.store(true, Ordering::Relaxed);
                false
            };
            let result = table.uploader.upload(&asset, payer.as_deref(), &wanted).await.map(Arc::new);
            if !given_up.into_inner() {
                let mut entries = table.entries();
                match &result {
                    Ok(resident) => entries.put(asset.digest().to_owned(), Residency::Resident(Arc::clone(resident))),
                    // The next request for the asset tries again.
                    Err(_) => entries.pop(asset.digest()),
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
