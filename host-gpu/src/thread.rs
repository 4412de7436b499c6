//! The GPU thread: the only place that submits, maps, unmaps and polls.
//!
//! ```text
//!  sessions ──Job──▶ bounded channel ──▶ running jobs, in order
//!                                          │ plan a slice, record, submit: at most two in flight
//!                                          ▼
//!  sessions ◀── oneshot: Done or Error ◀── poll, ≤ 1 ms at a time; charge, learn the pace, look at the flag
//! ```
//!
//! One thread owns this because mapping and unmapping from several has raced in wgpu, and a lock
//! around bounded polls starves whoever waits for a readback. Everyone else awaits a oneshot.
//! wgpu panics when a device is lost during a poll; the panic ends here: jobs in flight get
//! `DeviceLost`, and so does every later one.
//!
//! A job runs in slices ([`crate::slice`]). Between slices it ends early when a loop budget ran out, when the
//! request's GPU time is used up, or when nobody waits any more; what ran is charged all the same.

use crate::Error;
use crate::device::Counters;
use crate::encode::Step;
use crate::flag::Flag;
use crate::memory::Charge;
use crate::pace::Pace;
use crate::session::Usage;
use crate::slice::{self, Piece, Plan, plan};
use crate::staging::{self, Header, Marks, Staged, Staging};
use crate::submission::Clock;
use crate::{Kernel, record};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// The longest wait in one poll: how late a job may be submitted behind a running one.
const POLL_MAX: Duration = Duration::from_millis(1);
/// Slices on the GPU at once: the second keeps it busy while the first is looked at.
const IN_FLIGHT_MAX: usize = 2;
/// Nanoseconds for a mebibyte of copying, until it was measured.
const MEBIBYTE_NS: u64 = 100_000;

/// Work and what must live until it is done.
pub(crate) struct Job {
    pub(crate) steps: Vec<Step>,
    pub(crate) upload: Option<Staged>,
    /// Receives the header of the last slice, then the reads.
    pub(crate) readback: Option<Staged>,
    /// Buffers and charges, let go when the device reports the work done.
    pub(crate) keep: Vec<Keep>,
    /// Who is charged. The charge happens here and not where the guest waits, because a guest need
    /// not wait.
    pub(crate) usage: Option<Arc<Usage>>,
    /// GPU time of the request after which it gets no further slice.
    pub(crate) gpu_ns_max: u64,
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
    pub(crate) slices: u32,
    pub(crate) clock: Clock,
    /// Mapped for reading.
    pub(crate) readback: Option<Staged>,
}

impl Job {
    /// A job with nothing to upload or read.
    pub(crate) fn bare(steps: Vec<Step>) -> (Self, oneshot::Receiver<Result<Done, Error>>) {
        let (done, receiver) = oneshot::channel();
        let job =
            Self { steps, upload: None, readback: None, keep: Vec::new(), usage: None, gpu_ns_max: u64::MAX, done };
        (job, receiver)
    }
}

/// A job that has begun, or is next.
struct Running {
    job: Job,
    /// The step that comes next, and how much of it is submitted: workgroups or bytes.
    step: usize,
    done: u64,
    in_flight: usize,
    submitted_all: bool,
    began: bool,
    failed: Option<Error>,
    gpu_ns: u64,
    slices: u32,
    clock: Clock,
}

impl Running {
    fn new(job: Job) -> Self {
        Self {
            job,
            step: 0,
            done: 0,
            in_flight: 0,
            submitted_all: false,
            began: false,
            failed: None,
            gpu_ns: 0,
            slices: 0,
            clock: Clock::Gpu,
        }
    }

    /// Whether it has something to submit.
    fn wants_more(&self) -> bool {
        !self.submitted_all && self.failed.is_none()
    }
}

/// A slice on the GPU. It belongs to the first running job that has slices in flight.
struct InFlight {
    index: wgpu::SubmissionIndex,
    submitted: Instant,
    marks: Marks,
    /// Whether the header lies in the job's readback and not in the marks.
    last: bool,
    kernels: Vec<(Arc<Kernel>, u64)>,
    bytes: u64,
    number: u32,
}

/// What the thread is made of.
pub(crate) struct Parts {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) staging: Arc<Staging>,
    pub(crate) flag: Arc<Flag>,
    /// What a slice should take.
    pub(crate) slice_ns: u64,
    pub(crate) lost: Arc<AtomicBool>,
    pub(crate) counters: Arc<Counters>,
}

struct GpuThread {
    parts: Parts,
    running: VecDeque<Running>,
    in_flight: VecDeque<InFlight>,
    /// Nanoseconds for one tick of the GPU's clock.
    period: f64,
    /// The number of the latest slice; never zero, which the flag holds at first.
    number: u32,
    /// Nanoseconds for a mebibyte of copying.
    mebibyte_ns: u64,
    /// When the last slice ended, on the GPU's clock and on ours: with two slices in flight a
    /// slice is charged from there, not from its begin.
    previous_end: u64,
    previous_end_wall: Instant,
}

pub(crate) fn spawn(parts: Parts, jobs: mpsc::Receiver<Job>) {
    let lost = Arc::clone(&parts.lost);
    let thread = GpuThread {
        period: f64::from(parts.queue.get_timestamp_period()),
        parts,
        running: VecDeque::new(),
        in_flight: VecDeque::new(),
        number: 0,
        mebibyte_ns: MEBIBYTE_NS,
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
            if self.running.is_empty() {
                match jobs.blocking_recv() {
                    Some(job) => self.running.push_back(Running::new(job)),
                    None => return,
                }
            }
            while let Ok(job) = jobs.try_recv() {
                self.running.push_back(Running::new(job));
            }
            let healthy = catch_unwind(AssertUnwindSafe(|| {
                if !self.submit_next() {
                    self.poll();
                }
            }));
            if healthy.is_err() || self.parts.lost.load(Ordering::Relaxed) {
                self.parts.lost.store(true, Ordering::Relaxed);
                self.refuse_all(&mut jobs);
                return;
            }
        }
    }

    /// Submits the next slice, if there is one and it need not wait. Jobs take their turn in order.
    fn submit_next(&mut self) -> bool {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return false;
        }
        let Some(at) = self.running.iter().position(Running::wants_more) else { return false };
        if let Some(run) = self.running.get_mut(at)
            && let Some(error) = stopped(run)
        {
            run.failed = Some(error);
            self.conclude();
            return true;
        }
        let Some(plan) = self.running.get(at).and_then(|run| self.plan(run)) else { return false };
        self.submit(at, &plan);
        true
    }

    /// What the next slice of a job holds. None when it must wait until another was measured.
    fn plan(&self, run: &Running) -> Option<Plan> {
        let measuring = |kernel: &Arc<Kernel>| {
            self.in_flight.iter().any(|slice| slice.kernels.iter().any(|(other, _)| Arc::ptr_eq(other, kernel)))
        };
        plan(&run.job.steps, (run.step, run.done), self.parts.slice_ns, self.mebibyte_ns, measuring)
    }

    fn submit(&mut self, at: usize, plan: &Plan) {
        self.number = self.number.checked_add(1).unwrap_or(1);
        let Self { parts, running, number, .. } = self;
        let number = *number;
        let Some(run) = running.get_mut(at) else { return };
        if !std::mem::replace(&mut run.began, true) {
            for staged in run.job.upload.iter_mut().chain(run.job.readback.iter_mut()) {
                staged.unmap();
            }
        }
        let last = plan.step >= run.job.steps.len();
        let scope = parts.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let marks = parts.staging.marks();
        let header_in_readback = last && run.job.readback.is_some();
        let header = match &run.job.readback {
            Some(readback) if last => &readback.buffer,
            _ => &marks.header,
        };
        let commands = record::slice(&parts.device, &parts.flag, &run.job.steps, plan, &marks, header, number);
        let index = parts.queue.submit([commands]);
        if let Some(error) = crate::error::ready(scope.pop()).flatten() {
            run.failed = Some(crate::error::from_wgpu(error));
            self.conclude();
            return;
        }
        // Mapping right after the submit means that the next finished poll has the bytes ready.
        if last {
            if let Some(staged) = &mut run.job.upload {
                staged.map(wgpu::MapMode::Write);
            }
            if let Some(staged) = &mut run.job.readback {
                staged.map(wgpu::MapMode::Read);
            }
        }
        if !header_in_readback {
            marks.header.map_async(wgpu::MapMode::Read, .., |result| {
                if let Err(error) = result {
                    tracing::error!(%error, "a slice's header could not be mapped");
                }
            });
        }
        let mut kernels: Vec<(Arc<Kernel>, u64)> = Vec::new();
        let mut bytes = 0;
        for (step, piece) in &plan.parts {
            match (run.job.steps.get(*step), piece) {
                (Some(Step::Dispatch { kernel, .. }), Piece::Grid(part)) => {
                    match kernels.iter_mut().find(|(known, _)| Arc::ptr_eq(known, kernel)) {
                        Some((_, sum)) => *sum += part.workgroups(),
                        None => kernels.push((Arc::clone(kernel), part.workgroups())),
                    }
                }
                (_, Piece::Bytes { size, .. }) => bytes += size,
                _ => {}
            }
        }
        (run.step, run.done, run.submitted_all) = (plan.step, plan.done, last);
        run.in_flight += 1;
        self.parts.counters.round_trips.fetch_add(1, Ordering::Relaxed);
        let submitted = Instant::now();
        self.in_flight.push_back(InFlight {
            index,
            submitted,
            marks,
            last: header_in_readback,
            kernels,
            bytes,
            number,
        });
    }

    fn poll(&mut self) {
        let Some(oldest) = self.in_flight.front() else { return };
        let waited = self
            .parts
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
                self.parts.lost.store(true, Ordering::Relaxed);
            }
        }
    }

    /// A slice has ended: charges it, learns from it, and ends its job if it was the last.
    fn finish(&mut self, slice: InFlight) {
        let now = Instant::now();
        let run = self.running.iter().position(|run| run.in_flight > 0);
        let header = match run.and_then(|at| self.running.get(at)).and_then(|run| run.job.readback.as_ref()) {
            Some(readback) if slice.last => staging::header(&readback.buffer),
            _ => {
                let header = staging::header(&slice.marks.header);
                slice.marks.header.unmap();
                header
            }
        };
        let (gpu_ns, clock) = self.measure(header, slice.marks.stamps.is_some(), slice.submitted, now);
        self.previous_end_wall = now;
        self.learn(&slice, gpu_ns);
        self.parts.staging.put_back(slice.marks);
        self.parts.counters.gpu_ns.fetch_add(gpu_ns, Ordering::Relaxed);
        let Some(run) = run.and_then(|at| self.running.get_mut(at)) else { return };
        run.in_flight -= 1;
        run.gpu_ns = run.gpu_ns.saturating_add(gpu_ns);
        run.slices += 1;
        if clock == Clock::Wall {
            run.clock = Clock::Wall;
        }
        if let Some(usage) = &run.job.usage {
            usage.charge(gpu_ns, clock);
        }
        if header.is_some_and(|header| header.exhausted == slice.number) && run.failed.is_none() {
            run.failed = Some(exhausted(&slice.kernels));
        }
        self.conclude();
    }

    fn measure(&mut self, header: Option<Header>, stamped: bool, submitted: Instant, now: Instant) -> (u64, Clock) {
        match header.filter(|_| stamped) {
            Some(Header { begin, end, .. }) => {
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
        }
    }

    /// Divides a slice's time among what it held, as was expected.
    fn learn(&mut self, slice: &InFlight, gpu_ns: u64) {
        if slice.kernels.is_empty() {
            if slice.bytes >= 1 << 20 {
                let new = u64::try_from((u128::from(gpu_ns) << 20) / u128::from(slice.bytes)).unwrap_or(u64::MAX);
                self.mebibyte_ns = (self.mebibyte_ns - self.mebibyte_ns / 4 + new / 4).max(1);
            }
            return;
        }
        let kernels_ns = gpu_ns.saturating_sub(slice::copy_ns(slice.bytes, self.mebibyte_ns)).max(gpu_ns / 4);
        if let [(kernel, workgroups)] = slice.kernels.as_slice() {
            kernel.pace.measured(*workgroups, kernels_ns);
            return;
        }
        let expected = |pace: &Pace, workgroups| u128::from(pace.expected_ns(workgroups).max(1));
        let sum: u128 = slice.kernels.iter().map(|(kernel, workgroups)| expected(&kernel.pace, *workgroups)).sum();
        for (kernel, workgroups) in &slice.kernels {
            let share = u128::from(kernels_ns) * expected(&kernel.pace, *workgroups) / sum.max(1);
            kernel.pace.measured(*workgroups, u64::try_from(share).unwrap_or(u64::MAX));
        }
    }

    /// Ends the jobs at the front that have nothing more to come.
    fn conclude(&mut self) {
        self.running.retain_mut(|run| {
            let over = run.in_flight == 0 && (run.submitted_all || run.failed.is_some());
            if over {
                end(run);
            }
            !over
        });
    }

    fn refuse_all(&mut self, jobs: &mut mpsc::Receiver<Job>) {
        for run in self.running.drain(..) {
            let _ = run.job.done.send(Err(Error::lost()));
        }
        jobs.close();
        while let Some(job) = jobs.blocking_recv() {
            let _ = job.done.send(Err(Error::lost()));
        }
    }
}

/// Tells whoever waits, and lets go of what the job kept alive.
fn end(run: &mut Running) {
    let (unused, _) = oneshot::channel();
    let done = std::mem::replace(&mut run.job.done, unused);
    let (mut upload, mut readback) = (run.job.upload.take(), run.job.readback.take());
    if run.submitted_all {
        for staged in upload.iter_mut().chain(readback.iter_mut()) {
            staged.prove();
        }
    }
    drop((upload, std::mem::take(&mut run.job.keep)));
    let result = match run.failed.take() {
        Some(error) => Err(error),
        None => Ok(Done { gpu_ns: run.gpu_ns, slices: run.slices, clock: run.clock, readback }),
    };
    // A receiver that is gone belongs to an instance that ended; its work was charged all the same.
    let _ = done.send(result);
}

/// Why a job gets no further slice.
fn stopped(run: &Running) -> Option<Error> {
    let usage = run.job.usage.as_ref()?;
    if usage.cancelled.load(Ordering::Relaxed) {
        return Some(Error::DeadlineExceeded("the request has ended, and its work with it".into()));
    }
    let used = usage.gpu_ns.load(Ordering::Relaxed);
    (used >= run.job.gpu_ns_max && run.began).then(|| {
        Error::DeadlineExceeded(format!(
            "the request has used {} ms of gpu time; its limit is {} ms",
            used / 1_000_000,
            run.job.gpu_ns_max / 1_000_000
        ))
    })
}

fn exhausted(kernels: &[(Arc<Kernel>, u64)]) -> Error {
    let budget = kernels.iter().filter(|(kernel, _)| kernel.counts).map(|(kernel, _)| kernel.budget.apart).min();
    Error::BudgetExhausted(format!(
        "a loop ran out of its budget of {} {}; the results of this submission are void",
        budget.unwrap_or_default(),
        kernels.first().map_or("operations", |(kernel, _)| kernel.budget_unit())
    ))
}
