//! A running guest: what it will answer, how it ends, and what it has used so far.

use crate::worker::cpu::CpuMeter;
use gannet_base::hop::{Fault, Work};
use gannet_host_gpu::memory::MemoryQuota;
use gannet_host_gpu::session::Drainer;
use gannet_host_gpu::usage::Usage;
use http::Response;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// How long a finished request waits for what it left on the GPU.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How a guest ended.
pub(crate) type Ended = Result<(), Fault>;
/// A guest that is running.
pub(crate) type Running = Pin<Box<dyn Future<Output = Ended> + Send>>;
/// What the guest hands over as its answer.
pub(crate) type Answered = Result<Response<HyperOutgoingBody>, String>;

/// What a request has used, readable while it runs and after it was cancelled.
#[derive(Debug)]
pub(crate) struct RequestUsage {
    pub(crate) arrived: Instant,
    pub(crate) start_ns: AtomicU64,
    pub(crate) cpu: Arc<CpuMeter>,
    pub(crate) gpu: OnceLock<(Arc<Usage>, Arc<MemoryQuota>, Drainer)>,
}

impl RequestUsage {
    /// The first guest instruction is next.
    pub(crate) fn started(&self) {
        self.start_ns.store(nanoseconds(self.arrived.elapsed()), Ordering::Relaxed);
    }

    /// Waits, for a while, until what the request left on the GPU is done: it must be on the bill. Answers whether it is.
    pub(crate) async fn drain(&self) -> bool {
        match self.gpu.get() {
            Some((_, _, drainer)) => tokio::time::timeout(DRAIN_MAX, drainer.drain()).await.is_ok(),
            None => true,
        }
    }

    /// The work so far.
    pub(crate) fn work(&self, fault: Option<Fault>) -> Work {
        let mut work = Work {
            start_ns: self.start_ns.load(Ordering::Relaxed),
            guest_ns: self.cpu.used_ns(),
            fault,
            ..Work::default()
        };
        if let Some((usage, memory, _)) = self.gpu.get() {
            work.kernels_ns = usage.kernels_ns.load(Ordering::Relaxed);
            work.gpu_ns = usage.gpu_ns.load(Ordering::Relaxed);
            work.slices = usage.slices.load(Ordering::Relaxed);
            work.assets_ns = usage.assets_ns.load(Ordering::Relaxed);
            work.waited_ns = usage.waited_ns.load(Ordering::Relaxed);
            // A guest may compute while it waits for the GPU, so the two may overlap.
            work.gpu_wall_clock = usage.wall_clock.load(Ordering::Relaxed);
            work.gpu_memory_peak = memory.peak();
        }
        work.io_ns = self.cpu.idle_ns().saturating_sub(work.waited_ns);
        work
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
