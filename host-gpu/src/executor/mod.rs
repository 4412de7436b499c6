//! An open GPU, and the thread that runs jobs on it.
//!
//! ```text
//!  Job ─▶ Executor ─channel─▶ thread: slice.rs plans, record.rs records, the queue runs ─▶ FinishedJob
//! ```
//!
//! Everything on the device is created inside an error scope ([`Executor::scoped`]), so that an error of wgpu becomes a
//! typed error and never reaches the uncaptured-error handler. This module knows nothing of sessions, assets or the
//! compilation of kernels.

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

/// Jobs that may wait for the GPU thread. A session has at most 16 submissions in flight, so only several busy sessions
/// together reach this limit. Senders then wait for room.
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
    /// Starts the GPU thread of a device. With a link to an arbiter, no work is submitted without a lease.
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
            tracing::error!(%caught, "a gpu error was caught outside of every error scope");
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

    /// The device, for calls that need no error scope.
    pub(crate) fn wgpu(&self) -> &wgpu::Device {
        &self.wgpu
    }

    /// The pool of upload and readback buffers.
    pub(crate) fn staging(&self) -> &Arc<StagingPool> {
        &self.staging
    }

    /// The layout of the flag's bind group.
    pub(crate) fn flag_layout(&self) -> &wgpu::BindGroupLayout {
        &self.flag.layout
    }

    /// Number of slices and GPU time since the device was opened.
    pub(crate) fn counters(&self) -> &DeviceCounters {
        &self.counters
    }

    /// Returns whether the GPU thread holds a lease on a shared GPU.
    pub(crate) fn holds_gpu(&self) -> bool {
        self.holds_gpu.load(Ordering::Relaxed)
    }

    /// Returns whether the device was lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Destroys the device, as if its driver had lost it.
    pub(crate) fn destroy(&self) {
        self.wgpu.destroy();
        // wgpu calls the device-lost callback during a poll.
        if let Err(error) = self.wgpu.poll(wgpu::PollType::Poll) {
            tracing::debug!(%error, "the destroyed device could not be polled");
        }
    }

    /// Sends a job to the GPU thread. Waits for room in its queue.
    pub(crate) async fn send(&self, job: Job) -> Result<(), Error> {
        self.jobs.send(job).await.map_err(|_| Error::lost())
    }

    /// Like [`Executor::send`], for threads that may block.
    pub(crate) fn send_blocking(&self, job: Job) -> Result<(), Error> {
        self.jobs.blocking_send(job).map_err(|_| Error::lost())
    }

    /// Runs `make` inside error scopes. Returns the error that they caught, if any. Scopes are bound to the
    /// thread, so `make` is a closure, which cannot await.
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
