//! What a request has used of the GPU, and who pays: counters that the GPU thread writes and a receipt reads.

use crate::memory::MemoryQuota;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Where GPU time came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Timestamps that the GPU wrote.
    Gpu,
    /// Wall time of the submission.
    Wall,
}

/// What a request has used. It outlives the session, because the receipt is written from it.
#[derive(Debug, Default)]
pub struct Usage {
    /// GPU time charged, in nanoseconds.
    pub gpu_ns: AtomicU64,
    /// Slices that ran.
    pub slices: AtomicU64,
    /// Set when nobody waits for the work any more: what is not on the GPU yet is not begun.
    pub cancelled: AtomicBool,
    /// Time spent compiling kernels, in nanoseconds.
    pub kernels_ns: AtomicU64,
    /// Time that the guest spent waiting for the GPU or for a compiler, in nanoseconds.
    pub waited_ns: AtomicU64,
    /// Time that it took to bring assets to the GPU for this request, while it did other things or waited, in
    /// nanoseconds.
    pub assets_ns: AtomicU64,
    /// Whether any GPU time is wall time because the device has no timestamps.
    pub wall_clock: AtomicBool,
    /// Assets that are on their way to the GPU at its cost.
    pub(crate) uploads: UploadPermits,
}

impl Usage {
    /// Adds one slice that the GPU has finished.
    pub(crate) fn charge(&self, gpu_ns: u64, clock: Clock) {
        self.gpu_ns.fetch_add(gpu_ns, Ordering::Relaxed);
        self.slices.fetch_add(1, Ordering::Relaxed);
        if clock == Clock::Wall {
            self.wall_clock.store(true, Ordering::Relaxed);
        }
    }
}

/// Who is charged for a kernel's trial.
#[derive(Debug, Clone)]
pub struct Payer {
    /// For the buffers of the trial dispatch.
    pub memory: Arc<MemoryQuota>,
    /// For its time.
    pub usage: Arc<Usage>,
}

/// Each upload that a request pays for holds one permit.
#[derive(Debug)]
pub(crate) struct UploadPermits(Arc<Semaphore>);

/// More than a version has assets.
const UPLOADS_MAX: usize = 1 << 16;

impl Default for UploadPermits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UPLOADS_MAX)))
    }
}

impl UploadPermits {
    /// A permit to hold for as long as the upload takes.
    pub(crate) fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    /// Waits until no upload holds a permit.
    pub(crate) async fn drain(&self) {
        // An error would mean that the semaphore was closed, which nobody does.
        let _ = self.0.acquire_many(u32::try_from(UPLOADS_MAX).unwrap_or(u32::MAX)).await;
    }
}

/// The nanoseconds of a duration, as many as fit.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
