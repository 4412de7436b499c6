//! A request's use of the GPU: counters that the GPU thread, compilations and uploads write and that the receipt is
//! made from.

use crate::memory::MemoryQuota;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The source of a GPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Timestamps written by the GPU.
    Gpu,
    /// Wall time from submission to completion, because the device has no timestamps.
    Wall,
}

/// A request's use of the GPU. It outlives the session, because the receipt is made from it.
#[derive(Debug, Default)]
pub struct Usage {
    /// GPU time charged, in nanoseconds.
    pub gpu_ns: AtomicU64,
    /// Number of slices that ran.
    pub slices: AtomicU64,
    /// Set when nobody waits for the work any more. Slices that are not on the GPU yet are not submitted.
    pub cancelled: AtomicBool,
    /// Time spent compiling kernels, in nanoseconds.
    pub kernels_ns: AtomicU64,
    /// Time that the guest spent waiting for the GPU or for a compiler, in nanoseconds.
    pub waited_ns: AtomicU64,
    /// Time that the uploads of assets for this request took, in nanoseconds, whether the guest waited for them or not.
    pub assets_ns: AtomicU64,
    /// Whether any GPU time is wall time because the device has no timestamps.
    pub wall_clock: AtomicBool,
    /// Permits of the asset uploads that this request pays for.
    pub(crate) uploads: UploadPermits,
}

impl Usage {
    /// Adds the GPU time of a finished slice.
    pub(crate) fn charge(&self, gpu_ns: u64, clock: Clock) {
        self.gpu_ns.fetch_add(gpu_ns, Ordering::Relaxed);
        self.slices.fetch_add(1, Ordering::Relaxed);
        if clock == Clock::Wall {
            self.wall_clock.store(true, Ordering::Relaxed);
        }
    }
}

/// Pays for a kernel's trial dispatch.
#[derive(Debug, Clone)]
pub struct Payer {
    /// Charged for the buffers of the trial dispatch.
    pub memory: Arc<MemoryQuota>,
    /// Charged for its GPU time.
    pub usage: Arc<Usage>,
}

/// Counts the running uploads that a request pays for. Each holds one permit.
#[derive(Debug)]
pub(crate) struct UploadPermits(Arc<Semaphore>);

/// Number of permits: more than a version can have assets.
const UPLOADS_MAX: usize = 1 << 16;

impl Default for UploadPermits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UPLOADS_MAX)))
    }
}

impl UploadPermits {
    /// Takes a permit, to be held as long as the upload runs.
    pub(crate) fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    /// Waits until no upload holds a permit.
    pub(crate) async fn drain(&self) {
        // It only fails on a closed semaphore, and nothing closes this one.
        let _ = self.0.acquire_many(u32::try_from(UPLOADS_MAX).unwrap_or(u32::MAX)).await;
    }
}

/// Converts a duration to nanoseconds. Returns `u64::MAX` if they do not fit.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
