//! The GPU thread: the only place that submits, maps, unmaps and polls.
//!
//! ```text
//!  sessions ──Job──▶ bounded channel ──▶ unmap staging, submit, map again ──▶ in flight (in order)
//!                                                                        │ poll, ≤ 1 ms at a time
//!  sessions ◀──────────────────── oneshot: Done or Error ◀───────────────┘
//! ```
//!
//! One thread owns this because mapping and unmapping from several has raced in wgpu, and a lock
//! around bounded polls starves whoever waits for a readback. Everyone else awaits a oneshot.
//! wgpu panics when a device is lost during a poll; the panic ends here: jobs in flight get
//! `DeviceLost`, and so does every later one.

use crate::Error;
use crate::device::Counters;
use crate::memory::Charge;
use crate::session::Usage;
use crate::staging::{Staged, Stamps};
use crate::submission::Clock;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// The longest wait in one poll: how late a job may be submitted behind a running one.
const POLL_MAX: Duration = Duration::from_millis(1);

/// Recorded work and what must live until it is done.
pub(crate) struct Job {
    pub(crate) commands: wgpu::CommandBuffer,
    pub(crate) upload: Option<Staged>,
    /// Receives the timestamps in its first 16 bytes, then the reads.
    pub(crate) readback: Option<Staged>,
    pub(crate) stamps: Option<Stamps>,
    /// Buffers and charges, let go when the device reports the work done.
    pub(crate) keep: Vec<Keep>,
    /// Who is charged. The charge happens here and not where the guest waits, because a guest need
    /// not wait.
    pub(crate) usage: Option<Arc<Usage>>,
    pub(crate) done: oneshot::Sender<Result<Done, Error>>,
}

/// Something that the work in flight uses.
pub(crate) enum Keep {
    Buffer(#[expect(dead_code, reason = "held until the work is done")] Arc<crate::Buffer>),
    /// All that a batch's commands name.
    Named(#[expect(dead_code, reason = "held until the work is done")] Arc<crate::batch::Named>),
    Charge(#[expect(dead_code, reason = "held until the work is done")] Charge),
    /// Whose drop wakes whoever polls for the end.
    Finished(#[expect(dead_code, reason = "its drop tells the pollables")] watch::Sender<()>),
    /// The place among the session's submissions in flight.
    Place(#[expect(dead_code, reason = "held until the work is done")] OwnedSemaphorePermit),
}

/// Work that the GPU has finished.
pub(crate) struct Done {
    pub(crate) gpu_ns: u64,
    pub(crate) clock: Clock,
    /// Mapped for reading.
    pub(crate) readback: Option<Staged>,
}

impl Job {
    /// A job with nothing to upload, read or time.
    pub(crate) fn bare(commands: wgpu::CommandBuffer) -> (Self, oneshot::Receiver<Result<Done, Error>>) {
        let (done, receiver) = oneshot::channel();
        (Self { commands, upload: None, readback: None, stamps: None, keep: Vec::new(), usage: None, done }, receiver)
    }
}

struct InFlight {
    index: wgpu::SubmissionIndex,
    submitted: Instant,
    upload: Option<Staged>,
    readback: Option<Staged>,
    stamps: Option<Stamps>,
    keep: Vec<Keep>,
    usage: Option<Arc<Usage>>,
    done: oneshot::Sender<Result<Done, Error>>,
}

struct GpuThread {
    device: wgpu::Device,
    queue: wgpu::Queue,
    lost: Arc<AtomicBool>,
    counters: Arc<Counters>,
    in_flight: VecDeque<InFlight>,
    /// Nanoseconds for one tick of the GPU's clock.
    period: f64,
    /// When the last work ended, on the GPU's clock and on ours: with two submissions in flight a
    /// submission is charged from there, not from its begin.
    previous_end: u64,
    previous_end_wall: Instant,
}

pub(crate) fn spawn(
    device: wgpu::Device,
    queue: wgpu::Queue,
    jobs: mpsc::Receiver<Job>,
    lost: Arc<AtomicBool>,
    counters: Arc<Counters>,
) {
    let period = f64::from(queue.get_timestamp_period());
    let thread = GpuThread {
        device,
        queue,
        lost: Arc::clone(&lost),
        counters,
        in_flight: VecDeque::new(),
        period,
        previous_end: 0,
        previous_end_wall: Instant::now(),
    };
    let spawned = std::thread::Builder::new().name("gpu".into()).spawn(move || thread.run(jobs));
    if let Err(error) = spawned {
        tracing::error!(%error, "the gpu thread could not be started");
        lost.store(true, Ordering::Relaxed);
    }
}

impl GpuThread {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let next = if self.in_flight.is_empty() {
                match jobs.blocking_recv() {
                    Some(job) => Some(job),
                    None => return,
                }
            } else {
                jobs.try_recv().ok()
            };
            let healthy = catch_unwind(AssertUnwindSafe(|| match next {
                Some(job) => self.submit(job),
                None => self.poll(),
            }));
            if healthy.is_err() || self.lost.load(Ordering::Relaxed) {
                self.lost.store(true, Ordering::Relaxed);
                self.refuse_all(&mut jobs);
                return;
            }
        }
    }

    fn submit(&mut self, job: Job) {
        let Job { commands, mut upload, mut readback, stamps, keep, usage, done } = job;
        for staged in upload.iter_mut().chain(readback.iter_mut()) {
            staged.unmap();
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let index = self.queue.submit([commands]);
        if let Some(error) = crate::error::ready(scope.pop()).flatten() {
            let _ = done.send(Err(crate::error::from_wgpu(error)));
            return;
        }
        // Mapping right after the submit means that the next finished poll has the bytes ready.
        if let Some(staged) = &mut upload {
            staged.map(wgpu::MapMode::Write);
        }
        if let Some(staged) = &mut readback {
            staged.map(wgpu::MapMode::Read);
        }
        self.counters.round_trips.fetch_add(1, Ordering::Relaxed);
        self.in_flight.push_back(InFlight {
            index,
            submitted: Instant::now(),
            upload,
            readback,
            stamps,
            keep,
            usage,
            done,
        });
    }

    fn poll(&mut self) {
        let Some(oldest) = self.in_flight.front() else { return };
        let waited = self
            .device
            .poll(wgpu::PollType::Wait { submission_index: Some(oldest.index.clone()), timeout: Some(POLL_MAX) });
        match waited {
            Ok(_) => {
                if let Some(finished) = self.in_flight.pop_front() {
                    self.finish(finished);
                }
            }
            Err(wgpu::PollError::Timeout) => {}
            Err(error) => {
                tracing::error!(%error, "the gpu cannot be polled");
                self.lost.store(true, Ordering::Relaxed);
            }
        }
    }

    fn finish(&mut self, finished: InFlight) {
        let InFlight { submitted, mut upload, mut readback, stamps, keep, usage, done, .. } = finished;
        for staged in upload.iter_mut().chain(readback.iter_mut()) {
            staged.prove();
        }
        let now = Instant::now();
        let stamped = readback.as_ref().filter(|_| stamps.is_some()).and_then(Staged::timestamps);
        let (gpu_ns, clock) = match stamped {
            Some((begin, end)) => {
                let ticks = end.saturating_sub(begin.max(self.previous_end));
                self.previous_end = self.previous_end.max(end);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
                let ns = (ticks as f64 * self.period) as u64;
                (ns, Clock::Gpu)
            }
            None => {
                let wall = now.saturating_duration_since(submitted.max(self.previous_end_wall));
                (u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX), Clock::Wall)
            }
        };
        self.previous_end_wall = now;
        self.counters.gpu_ns.fetch_add(gpu_ns, Ordering::Relaxed);
        if let Some(usage) = usage {
            usage.charge(gpu_ns, clock);
        }
        drop((upload, stamps, keep));
        // A receiver that is gone belongs to an instance that ended; its work was charged all the same.
        let _ = done.send(Ok(Done { gpu_ns, clock, readback }));
    }

    fn refuse_all(&mut self, jobs: &mut mpsc::Receiver<Job>) {
        for waiting in self.in_flight.drain(..) {
            let _ = waiting.done.send(Err(Error::lost()));
        }
        jobs.close();
        while let Some(job) = jobs.blocking_recv() {
            let _ = job.done.send(Err(Error::lost()));
        }
    }
}
