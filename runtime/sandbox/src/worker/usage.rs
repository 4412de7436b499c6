//! What a request has used so far: time, CPU, GPU.
//!
//! It can be read while the guest runs and after it was cancelled, so every request gets a receipt.

use crate::worker::cpu_time::CpuMeter;
use gannet_base::hop::{Fault, WorkReport};
use gannet_host_gpu::Session;
use gannet_host_gpu::memory::MemoryQuota;
use gannet_host_gpu::session::Drainer;
use gannet_host_gpu::usage::Usage;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a finished request waits for its work on the GPU.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What a request has used so far.
#[derive(Debug)]
pub(crate) struct RequestUsage {
    arrived: Instant,
    /// From the arrival to the guest's first instruction.
    start_ns: AtomicU64,
    pub(crate) cpu: Arc<CpuMeter>,
    /// Set when the guest first uses the GPU.
    gpu: OnceLock<GpuUsage>,
}

#[derive(Debug)]
struct GpuUsage {
    counters: Arc<Usage>,
    memory: Arc<MemoryQuota>,
    drainer: Drainer,
}

impl RequestUsage {
    pub(crate) fn new(arrived: Instant) -> Self {
        Self { arrived, start_ns: AtomicU64::new(0), cpu: Arc::default(), gpu: OnceLock::new() }
    }

    /// Adds the GPU counters of a session. Called when the guest first uses the GPU.
    pub(crate) fn set_session(&self, session: &Session) {
        let (counters, memory) = (Arc::clone(session.usage()), Arc::clone(session.memory()));
        // A request has one session, so `gpu` is not set yet.
        let _ = self.gpu.set(GpuUsage { counters, memory, drainer: session.drainer() });
    }

    /// Records the time until the guest's first instruction. Call it right before that.
    pub(crate) fn guest_starts(&self) {
        self.start_ns.store(nanoseconds(self.arrived.elapsed()), Ordering::Relaxed);
    }

    /// Waits until the request's work on the GPU is done, because it must be on the bill. Gives up after [`DRAIN_MAX`].
    /// Returns whether the work is done.
    pub(crate) async fn drain(&self) -> bool {
        match self.gpu.get() {
            Some(gpu) => tokio::time::timeout(DRAIN_MAX, gpu.drainer.drain()).await.is_ok(),
            None => true,
        }
    }

    /// Returns the CPU time of the guest and its GPU time so far, in nanoseconds.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        let gpu_ns = self.gpu.get().map_or(0, |gpu| gpu.counters.gpu_ns.load(Ordering::Relaxed));
        (self.cpu.used_ns(), gpu_ns)
    }

    /// Returns the receipt with the current values.
    pub(crate) fn work(&self, fault: Option<Fault>) -> WorkReport {
        let mut work = WorkReport {
            start_ns: self.start_ns.load(Ordering::Relaxed),
            guest_ns: self.cpu.used_ns(),
            fault,
            ..WorkReport::default()
        };
        if let Some(GpuUsage { counters, memory, .. }) = self.gpu.get() {
            work.kernels_ns = counters.kernels_ns.load(Ordering::Relaxed);
            work.gpu_ns = counters.gpu_ns.load(Ordering::Relaxed);
            work.slices = counters.slices.load(Ordering::Relaxed);
            work.assets_ns = counters.assets_ns.load(Ordering::Relaxed);
            work.gpu_wait_ns = counters.waited_ns.load(Ordering::Relaxed);
            work.gpu_wall_clock = counters.wall_clock.load(Ordering::Relaxed);
            work.gpu_memory_peak = memory.peak();
        }
        // A guest may compute while it waits for the GPU, so the two may overlap.
        work.io_ns = self.cpu.idle_ns().saturating_sub(work.gpu_wait_ns);
        work
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
