//! One request's use of a device: its limits, its charges, its pending writes.
//!
//! Everything a request makes hangs on its session's ledger, so that whatever it forgets to free
//! is freed when the last handle goes. Dropping a session while work is in flight is safe: the
//! GPU thread keeps what the work uses.

use crate::asset::Resident;
use crate::job::Keep;
use crate::kernel::source_hash;
use crate::memory::Ledger;
use crate::submission::Clock;
use crate::{Buffer, Catalog, Device, Error, Kernel};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Submissions of one session in flight. One more waits for the oldest, which needs nothing from
/// the waiter, so the wait ends.
pub const IN_FLIGHT_MAX: usize = 16;

/// Bytes of recorded writes and inline bindings that the batches of one session hold in host memory.
const HOST_BYTES_MAX: u64 = 64 << 20;

/// What one request may use.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Bytes of GPU memory, staging included.
    pub memory_bytes: u64,
    /// GPU time in nanoseconds; submissions made after it is used up are refused.
    pub gpu_ns: u64,
}

/// What a request has used. Shared with whoever writes its receipt.
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
    pub(crate) uploads: Uploads,
}

/// Each upload that a request pays for holds one permit.
#[derive(Debug)]
pub(crate) struct Uploads(Arc<Semaphore>);

/// More than a version has assets.
const UPLOADS_MAX: usize = 1 << 16;

impl Default for Uploads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UPLOADS_MAX)))
    }
}

impl Uploads {
    /// Held as long as an upload.
    pub(crate) fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    async fn drain(&self) {
        // Closed semaphores do not happen: nobody closes it.
        let _ = self.0.acquire_many(u32::try_from(UPLOADS_MAX).unwrap_or(u32::MAX)).await;
    }
}

pub(crate) struct PendingWrite {
    pub(crate) target: Arc<Buffer>,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) charge: crate::memory::Charge,
}

/// See the module.
pub struct Session {
    device: Arc<Device>,
    memory: Arc<Ledger>,
    catalog: Arc<Catalog>,
    /// Assets that must stay on the GPU as long as this session.
    pinned: HashMap<String, Arc<Resident>>,
    usage: Arc<Usage>,
    limits: SessionLimits,
    pending: Vec<PendingWrite>,
    in_flight: Arc<Semaphore>,
    host_memory: Arc<Ledger>,
}

/// Waits for a session's submissions; see [`Session::drainer`].
#[derive(Debug, Clone)]
pub struct Drainer {
    in_flight: Arc<Semaphore>,
    usage: Arc<Usage>,
}

impl Drainer {
    /// Waits until everything the session submitted, and each upload that it pays for, is done and charged. What is in flight
    /// ends by itself, so this does too; callers bound it all the same.
    pub async fn drain(&self) {
        let all = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
        // Closed semaphores do not happen: nobody closes it.
        let _ = self.in_flight.acquire_many(all).await;
        self.usage.uploads.drain().await;
    }
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
    /// A session on `device` that can open the kernels of `catalog`.
    pub fn new(device: Arc<Device>, catalog: Arc<Catalog>, limits: SessionLimits) -> Self {
        let memory = Ledger::new("request", limits.memory_bytes, Some(Arc::clone(device.memory())));
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let host_memory = Ledger::new("request's batches", HOST_BYTES_MAX, None);
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

    /// Begins to serve another request with what the last one left: its use is counted anew, what it holds still counts.
    pub fn begin_again(&mut self) {
        // Nobody would be charged for what is left of the last one.
        self.usage.cancelled.store(true, Ordering::Relaxed);
        self.usage = Arc::default();
        self.memory.forget_peak();
    }

    /// Keeps an asset on the GPU as long as this session.
    pub(crate) fn pin(&mut self, digest: &str, resident: &Arc<Resident>) {
        if !self.pinned.contains_key(digest) {
            self.pinned.insert(digest.to_owned(), Arc::clone(resident));
        }
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The request's memory.
    pub fn memory(&self) -> &Arc<Ledger> {
        &self.memory
    }

    /// The request's limits.
    pub fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// What the request has used so far.
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

    /// Queues a write. Their number is bounded, since a submission records them all at once.
    pub(crate) fn push_write(&mut self, write: PendingWrite) -> Result<(), Error> {
        if self.pending.len() >= crate::batch::COMMANDS_MAX {
            return Err(Error::InvalidArgument(format!(
                "{} writes wait for a submission; that is the limit: submit first",
                self.pending.len()
            )));
        }
        self.pending.push(write);
        Ok(())
    }

    /// Puts writes back that could not be submitted.
    pub(crate) fn restore_writes(&mut self, mut writes: Vec<PendingWrite>) {
        writes.append(&mut self.pending);
        self.pending = writes;
    }

    /// The host memory that the session's batches hold.
    pub(crate) fn host_memory(&self) -> &Arc<Ledger> {
        &self.host_memory
    }

    /// What must be waited for until everything submitted is done and charged: it can be kept when the
    /// session is gone.
    pub fn drainer(&self) -> Drainer {
        Drainer { in_flight: Arc::clone(&self.in_flight), usage: Arc::clone(&self.usage) }
    }

    pub(crate) fn take_writes(&mut self) -> Vec<PendingWrite> {
        std::mem::take(&mut self.pending)
    }

    /// Opens a kernel that was declared at deploy.
    pub fn open_kernel(&self, name: &str, constants: &[(String, f64)]) -> Result<KernelJob, Error> {
        let declared = self.catalog.get(name).ok_or_else(|| {
            let mut names: Vec<&str> = self.catalog.keys().map(String::as_str).collect();
            names.sort_unstable();
            Error::NotFound(format!("no kernel {name:?} was declared; declared are {names:?}"))
        })?;
        Ok(self.kernel_job(Arc::clone(&declared.wgsl), declared.entry.clone(), constants.to_vec()))
    }

    /// Prepares the compilation of a kernel made at run time.
    pub fn compile_kernel(&self, wgsl: &str, entry: &str, constants: &[(String, f64)]) -> KernelJob {
        self.kernel_job(wgsl.into(), entry.to_owned(), constants.to_vec())
    }

    /// The request as the one who pays for kernels' trials.
    pub fn payer(&self) -> Payer {
        Payer { memory: Arc::clone(&self.memory), usage: Arc::clone(&self.usage) }
    }

    fn kernel_job(&self, wgsl: Arc<str>, entry: String, constants: Vec<(String, f64)>) -> KernelJob {
        KernelJob {
            device: Arc::clone(&self.device),
            payer: self.payer(),
            time: self.time_left(),
            wgsl,
            entry,
            constants,
        }
    }
}

/// Who is charged for a kernel's trial.
#[derive(Debug, Clone)]
pub struct Payer {
    /// For the buffers of the trial dispatch.
    pub memory: Arc<Ledger>,
    /// For its time.
    pub usage: Arc<Usage>,
}

/// A kernel about to be compiled. Apart from the session, so that waiting holds no borrow of it.
#[derive(Debug)]
pub struct KernelJob {
    device: Arc<Device>,
    payer: Payer,
    time: Result<(), Error>,
    wgsl: Arc<str>,
    entry: String,
    constants: Vec<(String, f64)>,
}

impl KernelJob {
    /// The kernel from the cache, or compiled on a thread that may block.
    pub async fn run(self) -> Result<Arc<Kernel>, Error> {
        if self.device.is_quarantined(&source_hash(&self.wgsl, &self.entry)) {
            return Err(Error::KernelRejected(
                "it is quarantined: a process that ran it kept the gpu when it was asked back; deploying the function \
                 again lifts that"
                    .into(),
            ));
        }
        if let Some(kernel) = self.device.cached_kernel(&self.wgsl, &self.entry, &self.constants) {
            return Ok(kernel);
        }
        self.time?;
        let usage = Arc::clone(&self.payer.usage);
        let started = Instant::now();
        let compiled = tokio::task::spawn_blocking(move || {
            self.device.kernel(&self.wgsl, &self.entry, &self.constants, &self.payer)
        });
        let result = compiled.await.unwrap_or_else(|_| Err(Error::KernelRejected("the compiler failed".into())));
        let took = nanoseconds(started.elapsed());
        usage.kernels_ns.fetch_add(took, Ordering::Relaxed);
        usage.waited_ns.fetch_add(took, Ordering::Relaxed);
        result
    }
}

impl Usage {
    /// Adds one finished submission.
    pub(crate) fn charge(&self, gpu_ns: u64, clock: Clock) {
        self.gpu_ns.fetch_add(gpu_ns, Ordering::Relaxed);
        self.slices.fetch_add(1, Ordering::Relaxed);
        if clock == Clock::Wall {
            self.wall_clock.store(true, Ordering::Relaxed);
        }
    }
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl From<PendingWrite> for [Keep; 2] {
    fn from(write: PendingWrite) -> Self {
        [Keep::Buffer(write.target), Keep::Charge(write.charge)]
    }
}
