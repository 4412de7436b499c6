//! One request's use of a device: its limits, its charges, its pending writes.
//!
//! Everything that a request allocates is charged to its session's quota, and is freed when its last handle is dropped.
//! Dropping a session while work is in flight is safe, because the GPU thread keeps alive everything the work uses.

mod assets;
mod buffers;
mod drainer;
mod pending_write;

use crate::asset::ResidentAsset;
use crate::compiler::compilation::KernelCompilation;
use crate::device::Device;
use crate::error::Error;
use crate::kernel::KernelCatalog;
use crate::memory::MemoryQuota;
use crate::usage::{Payer, Usage};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Semaphore;

pub use drainer::{Drainer, IN_FLIGHT_MAX};
pub(crate) use pending_write::PendingWrite;

/// Limit of the host memory for recorded writes and inline bindings of all batches of a session, in bytes.
const HOST_BYTES_MAX: u64 = 64 << 20;

/// Limit of the writes that wait for one submission, which records them all at once.
const PENDING_WRITES_MAX: usize = 4096;

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Bytes of GPU memory, including staging buffers.
    pub memory_bytes: u64,
    /// GPU time in nanoseconds. Once it is used up, submissions are refused and running jobs get no further slice.
    pub gpu_ns: u64,
    /// Work of the loops of one invocation, in weighted operations. Software drivers have a limit of their own.
    pub loop_work: u32,
}

/// One request's use of a device. Dropping it cancels all slices that are not on the GPU yet.
pub struct Session {
    device: Arc<Device>,
    memory: Arc<MemoryQuota>,
    catalog: Arc<KernelCatalog>,
    /// Assets that must stay on the GPU as long as this session.
    pinned: HashMap<String, Arc<ResidentAsset>>,
    usage: Arc<Usage>,
    limits: SessionLimits,
    pending: Vec<PendingWrite>,
    in_flight: Arc<Semaphore>,
    host_memory: Arc<MemoryQuota>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("limits", &self.limits).field("usage", &self.usage).finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.usage.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Session {
    /// Makes a session on `device` that can open the kernels of `catalog`.
    pub fn new(device: Arc<Device>, catalog: Arc<KernelCatalog>, limits: SessionLimits) -> Self {
        let memory = MemoryQuota::new("request", limits.memory_bytes, Some(Arc::clone(device.memory())));
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let host_memory = MemoryQuota::host("request", HOST_BYTES_MAX);
        Self {
            device,
            memory,
            catalog,
            pinned: HashMap::new(),
            usage: Arc::default(),
            limits,
            pending: Vec::new(),
            in_flight,
            host_memory,
        }
    }

    /// Prepares the session for another request, which keeps buffers and assets of the last one. Usage starts at zero;
    /// memory that is still held counts from the start. Its quota of memory stays: that is the same for all requests of a
    /// version, but not their time.
    pub fn begin_again(&mut self, limits: SessionLimits) {
        self.limits = SessionLimits { memory_bytes: self.limits.memory_bytes, ..limits };
        // Work that is left of the last request is cancelled, because nobody would be charged for it.
        self.usage.cancelled.store(true, Ordering::Relaxed);
        self.usage = Arc::default();
        self.memory.forget_peak();
    }

    /// Keeps an asset on the GPU as long as this session.
    pub(crate) fn pin(&mut self, digest: &str, resident: &Arc<ResidentAsset>) {
        if !self.pinned.contains_key(digest) {
            self.pinned.insert(digest.to_owned(), Arc::clone(resident));
        }
    }

    /// The device that the session uses.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The request's quota of GPU memory.
    pub fn memory(&self) -> &Arc<MemoryQuota> {
        &self.memory
    }

    /// The request's limits.
    pub fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// What the request has used so far. It outlives the session.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    pub(crate) fn in_flight(&self) -> &Arc<Semaphore> {
        &self.in_flight
    }

    /// Refuses work once the request's GPU time is used up.
    pub(crate) fn time_left(&self) -> Result<(), Error> {
        let used = self.usage.gpu_ns.load(Ordering::Relaxed);
        if used >= self.limits.gpu_ns {
            return Err(Error::DeadlineExceeded(format!(
                "the request has used {} ms of gpu time; its limit is {} ms",
                used / 1_000_000,
                self.limits.gpu_ns / 1_000_000
            )));
        }
        Ok(())
    }

    /// Queues a write. The number of queued writes is limited, since a submission records them all at once.
    pub(crate) fn push_write(&mut self, write: PendingWrite) -> Result<(), Error> {
        if self.pending.len() >= PENDING_WRITES_MAX {
            return Err(Error::InvalidArgument(format!(
                "{} writes wait for a submission, which is the limit; submit them first",
                self.pending.len()
            )));
        }
        self.pending.push(write);
        Ok(())
    }

    /// Puts back writes that could not be encoded, before all later ones.
    pub(crate) fn restore_writes(&mut self, mut writes: Vec<PendingWrite>) {
        writes.append(&mut self.pending);
        self.pending = writes;
    }

    /// The quota of host memory for the session's batches.
    pub(crate) fn host_memory(&self) -> &Arc<MemoryQuota> {
        &self.host_memory
    }

    /// Returns a handle to wait until everything submitted is done and charged. It can outlive the session.
    pub fn drainer(&self) -> Drainer {
        Drainer { in_flight: Arc::clone(&self.in_flight), usage: Arc::clone(&self.usage) }
    }

    pub(crate) fn take_writes(&mut self) -> Vec<PendingWrite> {
        std::mem::take(&mut self.pending)
    }

    /// Prepares the compilation of a kernel that was declared at deploy.
    pub fn open_kernel(&self, name: &str, constants: &[(String, f64)]) -> Result<KernelCompilation, Error> {
        let declared = self.catalog.get(name).ok_or_else(|| {
            let mut names: Vec<&str> = self.catalog.keys().map(String::as_str).collect();
            names.sort_unstable();
            Error::NotFound(format!("no kernel {name:?} was declared; the declared kernels are {names:?}"))
        })?;
        Ok(self.kernel_compilation(Arc::clone(&declared.wgsl), declared.entry.clone(), constants.to_vec()))
    }

    /// Prepares the compilation of a kernel made at run time.
    pub fn compile_kernel(&self, wgsl: &str, entry: &str, constants: &[(String, f64)]) -> KernelCompilation {
        self.kernel_compilation(wgsl.into(), entry.to_owned(), constants.to_vec())
    }

    /// Returns the payer for trial dispatches of this request's kernels.
    pub fn payer(&self) -> Payer {
        Payer { memory: Arc::clone(&self.memory), usage: Arc::clone(&self.usage) }
    }

    fn kernel_compilation(&self, wgsl: Arc<str>, entry: String, constants: Vec<(String, f64)>) -> KernelCompilation {
        KernelCompilation {
            compiler: Arc::clone(self.device.compiler()),
            payer: self.payer(),
            time_left: self.time_left(),
            wgsl,
            entry,
            constants,
        }
    }
}
