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
//! Nothing is submitted without a lease, if the GPU is shared ([`lease`](gannet_gpu_protocol::lease)): asked back, the thread submits no more,
//! and gives it back when what is on the GPU has ended.
//!
//! A job runs in slices ([`super::slice`]). Between slices it ends early when a loop budget ran out, when the
//! request's GPU time is used up, or when nobody waits any more; what ran is charged all the same.

mod submit;
mod finish;

use super::budget_flag::BudgetFlag;
use super::clock::SliceClock;
use super::counters::DeviceCounters;
use super::in_flight::SliceInFlight;
use super::job::Job;
use super::running_job::RunningJob;
use super::slice_meter::SliceMeters;
use crate::arbiter_link::ArbiterLink;
use crate::error::Error;
use gannet_gpu_protocol::lease::{ArbiterMessage, Lease};
use gannet_gpu_protocol::running_kernels::RunningKernels;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often jobs that wait for the GPU are looked at: their request may have ended.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// Nanoseconds for a mebibyte of copying, until it was measured.
const MEBIBYTE_NS: u64 = 100_000;

/// What the thread is started with.
pub(crate) struct GpuThreadParts {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) meters: SliceMeters,
    pub(crate) flag: Arc<BudgetFlag>,
    /// What a slice should take, alone on the GPU and while others wait.
    pub(crate) slice_ns: [u64; 2],
    /// Tells whether a shared GPU is held.
    pub(crate) holds_gpu: Arc<AtomicBool>,
    /// The link to the arbiter, if the GPU is shared.
    pub(crate) link: Option<ArbiterLink>,
    pub(crate) lost: Arc<AtomicBool>,
    pub(crate) counters: Arc<DeviceCounters>,
}

struct GpuThread {
    parts: GpuThreadParts,
    lease: Lease,
    running_kernels: RunningKernels,
    running: VecDeque<RunningJob>,
    in_flight: VecDeque<SliceInFlight>,
    clock: SliceClock,
    /// The number of the latest slice; never zero, which the flag holds at first.
    number: u32,
    /// Nanoseconds for a mebibyte of copying.
    mebibyte_ns: u64,
}

/// Starts the thread. If that fails, the device is lost.
pub(crate) fn spawn(mut parts: GpuThreadParts, jobs: mpsc::Receiver<Job>) {
    let lost = Arc::clone(&parts.lost);
    let running_kernels = RunningKernels::new(parts.link.as_mut().and_then(|link| link.notes.take()));
    let thread = GpuThread {
        clock: SliceClock::new(parts.queue.get_timestamp_period()),
        lease: Lease::new(parts.link.is_some()),
        running_kernels,
        parts,
        running: VecDeque::new(),
        in_flight: VecDeque::new(),
        number: 0,
        mebibyte_ns: MEBIBYTE_NS,
    };
    let spawned = std::thread::Builder::new().name("gpu".into()).spawn(move || thread.run(jobs));
    if let Err(error) = spawned {
        tracing::error!(%error, "the gpu thread could not be started");
        lost.store(true, Ordering::Relaxed);
    }
}

impl GpuThread {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the gpu thread cannot wait");
                self.parts.lost.store(true, Ordering::Relaxed);
                return self.refuse_all(&mut jobs);
            }
        };
        while self.receive(&runtime, &mut jobs) {
            let healthy = catch_unwind(AssertUnwindSafe(|| {
                if !self.submit_next() {
                    self.poll();
                }
            }));
            if healthy.is_err() || self.parts.lost.load(Ordering::Relaxed) {
                self.parts.lost.store(true, Ordering::Relaxed);
                if let Some(link) = &self.parts.link {
                    (link.on_loss)();
                }
                self.refuse_all(&mut jobs);
                return;
            }
        }
    }

    /// Takes in jobs and what the arbiter says, and waits for more as long as there is nothing to do. False when there
    /// will be no more.
    fn receive(&mut self, runtime: &tokio::runtime::Runtime, jobs: &mut mpsc::Receiver<Job>) -> bool {
        loop {
            while let Ok(job) = jobs.try_recv() {
                self.running.push_back(RunningJob::new(job));
            }
            while let Some(message) = self.parts.link.as_mut().and_then(|link| link.messages.try_recv().ok()) {
                self.receive_from_arbiter(message);
            }
            self.send_to_arbiter();
            if !self.in_flight.is_empty() || self.next_run().is_some() {
                return true;
            }
            match runtime.block_on(self.wait(jobs)) {
                Wake::Job(job) => self.running.push_back(RunningJob::new(job)),
                Wake::Arbiter(message) => self.receive_from_arbiter(message),
                Wake::Time => self.sweep(),
                Wake::Over => return false,
            }
        }
    }

    async fn wait(&mut self, jobs: &mut mpsc::Receiver<Job>) -> Wake {
        let sweep = (!self.running.is_empty()).then(|| Instant::now() + SWEEP_EVERY);
        let deadline = self.lease.deadline().into_iter().chain(sweep).min();
        let time = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let link = &mut self.parts.link;
        let message = async {
            match link {
                Some(link) => link.messages.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            job = jobs.recv() => job.map_or(Wake::Over, Wake::Job),
            message = message => message.map_or(Wake::Over, Wake::Arbiter),
            () = time => Wake::Time,
        }
    }

    fn receive_from_arbiter(&mut self, message: ArbiterMessage) {
        let answer = self.lease.receive(message, Instant::now());
        if let (Some(answer), Some(link)) = (answer, &mut self.parts.link) {
            (link.send)(answer);
        }
    }

    /// Says to the arbiter what there is to say.
    fn send_to_arbiter(&mut self) {
        let Some(link) = &mut self.parts.link else { return };
        let compiling = self.in_flight.iter().any(|slice| slice.compiles);
        let work = !compiling && self.running.iter().any(|run| run.wants_more() && !run.job.compiles);
        let in_flight = self.in_flight.iter().any(|slice| !slice.compiles);
        if let Some(message) = self.lease.next(work, in_flight, Instant::now()) {
            (link.send)(message);
        }
        self.parts.holds_gpu.store(self.lease.may_submit() || in_flight, Ordering::Relaxed);
    }

    /// Ends jobs that nobody waits for, while they wait for the GPU.
    fn sweep(&mut self) {
        for run in &mut self.running {
            if let Some(error) = run.stopped().filter(|_| run.wants_more()) {
                run.failed = Some(error);
            }
        }
        self.conclude();
    }

    /// The job whose turn it is, if it may go on: jobs take their turn in order. Compiling happens apart, so that what
    /// is on the GPU when it is asked back never stands behind a compiler.
    fn next_run(&self) -> Option<usize> {
        let at = self.running.iter().position(RunningJob::wants_more)?;
        let may = match self.running.get(at) {
            Some(run) if run.job.compiles => self.in_flight.is_empty(),
            _ => self.lease.may_submit() && !self.in_flight.iter().any(|slice| slice.compiles),
        };
        may.then_some(at)
    }

    /// Ends the jobs at the front that have nothing more to come.
    fn conclude(&mut self) {
        self.running.retain_mut(|run| {
            let over = run.is_over();
            if over {
                run.end();
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

/// What the thread wakes up for.
enum Wake {
    Job(Job),
    Arbiter(ArbiterMessage),
    Time,
    Over,
}
