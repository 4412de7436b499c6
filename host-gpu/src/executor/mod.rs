//! An open GPU, and the thread that runs jobs on it.
//!
//! ```text
//!  Job ─▶ Executor ─channel─▶ thread: slice plans, record records, the queue runs ─▶ FinishedJob
//! ```
//!
//! Everything that is created on the device is created here, inside an error scope ([`Executor::scoped`]), so that what
//! wgpu refuses becomes a typed error and never reaches the uncaptured-error handler. It knows nothing of sessions, assets
//! or how kernels are made.

mod counters;
mod budget_flag;
mod staging;
mod slice_meter;
mod job;
mod slice;
mod record;
mod in_flight;
mod clock;
mod running_job;
mod thread;

use crate::arbiter_link::ArbiterLink;
use crate::error::{self, Error};
use budget_flag::BudgetFlag;
use slice::{SLICE_NS, SOFTWARE_CONTENDED_NS, SOFTWARE_SLICE_NS};
use slice_meter::SliceMeters;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

pub use counters::DeviceCounters;
pub(crate) use job::{FinishedJob, Job, JobResult, Step};
pub(crate) use slice_meter::HEADER_SIZE;
pub(crate) use staging::{StagingBuffer, StagingPool};

/// Jobs that may wait for the GPU thread. A session has at most 16 submissions in flight, so this
/// is reached only by several busy sessions; senders then wait their turn.
const QUEUE_CAPACITY: usize = 64;

/// The handle to an open wgpu device and its GPU thread.
#[derive(Debug)]
pub(crate) struct Executor {
    wgpu: wgpu::Device,
    jobs: mpsc::Sender<Job>,
    staging: Arc<StagingPool>,
    flag: Arc<BudgetFlag>,
    holds_gpu: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
    counters: Arc<DeviceCounters>,
}

impl Executor {
    /// Starts the GPU thread of a device. With a link to an arbiter, nothing is submitted without a lease.
    pub(crate) fn start(
        device: wgpu::Device,
        queue: wgpu::Queue,
        software: bool,
        link: Option<ArbiterLink>,
    ) -> Arc<Self> {
        let lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&lost);
        let on_loss = link.as_ref().map(|link| Arc::clone(&link.on_loss));
        device.set_device_lost_callback(move |reason, message| {
            tracing::error!(?reason, message, "the gpu device was lost");
            flag.store(true, Ordering::Relaxed);
            if let Some(on_loss) = &on_loss {
                on_loss();
            }
        });
        device.on_uncaptured_error(Arc::new(|caught| {
            tracing::error!(%caught, "a gpu error reached no error scope");
        }));
        let holds_gpu = Arc::<AtomicBool>::default();
        let counters = Arc::new(DeviceCounters::default());
        let flag = Arc::new(BudgetFlag::new(&device));
        let (jobs, receiver) = mpsc::channel(QUEUE_CAPACITY);
        let parts = thread::GpuThreadParts {
            device: device.clone(),
            queue,
            meters: SliceMeters::new(device.clone()),
            flag: Arc::clone(&flag),
            slice_ns: if software { [SOFTWARE_SLICE_NS, SOFTWARE_CONTENDED_NS] } else { [SLICE_NS; 2] },
            holds_gpu: Arc::clone(&holds_gpu),
            link,
            lost: Arc::clone(&lost),
            counters: Arc::clone(&counters),
        };
        thread::spawn(parts, receiver);
        let staging = Arc::new(StagingPool::new(device.clone()));
        Arc::new(Self { wgpu: device, jobs, staging, flag, holds_gpu, lost, counters })
    }

    /// The device, for what needs no error scope.
    pub(crate) fn wgpu(&self) -> &wgpu::Device {
        &self.wgpu
    }

    /// Where upload and readback buffers come from.
    pub(crate) fn staging(&self) -> &Arc<StagingPool> {
        &self.staging
    }

    /// The layout of the bind group that holds the flag.
    pub(crate) fn flag_layout(&self) -> &wgpu::BindGroupLayout {
        &self.flag.layout
    }

    /// Slices and GPU time since the start.
    pub(crate) fn counters(&self) -> &DeviceCounters {
        &self.counters
    }

    /// Whether it holds a lease on a shared GPU.
    pub(crate) fn holds_gpu(&self) -> bool {
        self.holds_gpu.load(Ordering::Relaxed)
    }

    /// Whether the device is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Gives the device up, as if its driver had lost it.
    pub(crate) fn destroy(&self) {
        self.wgpu.destroy();
        // The callback is called while the device is polled.
        if let Err(error) = self.wgpu.poll(wgpu::PollType::Poll) {
            tracing::debug!(%error, "a destroyed device was polled");
        }
    }

    /// Hands a job to the GPU thread, waiting for room in its queue.
    pub(crate) async fn send(&self, job: Job) -> Result<(), Error> {
        self.jobs.send(job).await.map_err(|_| Error::lost())
    }

    /// The same where blocking is allowed.
    pub(crate) fn send_blocking(&self, job: Job) -> Result<(), Error> {
        self.jobs.blocking_send(job).map_err(|_| Error::lost())
    }

    /// Runs `make` inside error scopes and returns what they caught. Scopes are bound to the
    /// thread, hence the closure: it cannot await.
    pub(crate) fn scoped<T>(&self, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T, Error> {
        if self.is_lost() {
            return Err(Error::lost());
        }
        let memory = self.wgpu.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.wgpu.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.wgpu.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make(&self.wgpu);
        // Scopes end innermost first.
        let caught = [error::ready(validation.pop()), error::ready(internal.pop()), error::ready(memory.pop())];
        match caught.into_iter().flatten().flatten().next() {
            Some(caught) => Err(error::from_wgpu(caught)),
            None => Ok(made),
        }
    }
}
