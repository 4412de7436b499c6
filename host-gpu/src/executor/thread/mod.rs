//! The GPU thread: the only place that submits, maps, unmaps and polls.
//!
//! ```text
//!  sessions ──Job──▶ bounded channel ──▶ running jobs, in order
//!                                          │ plan a slice, record, submit: at most two in flight
//!                                          ▼
//!  sessions ◀── oneshot: Done or Error ◀── poll, ≤ 1 ms at a time (20 ms if nothing can be submitted before);
//!                                          charge, update the pace, check the flag
//! ```
//!
//! One thread owns all of this for two reasons: mapping and unmapping from several threads has raced in wgpu, and a
//! lock around bounded polls starves callers that wait for a readback. All other code awaits a oneshot.
//! wgpu panics when a device is lost during a poll. This thread catches the panic: jobs in flight fail with
//! `DeviceLost`, and so do all later ones.
//!
//! If the GPU is shared, nothing is submitted without a lease ([`lease`](gannet_gpu_protocol::lease)), except
//! dispatches without workgroups, which only make a software driver compile ([`Job::compiles`]). When the lease is
//! revoked, the thread submits no more, and releases it when all slices on the GPU have ended.
//!
//! A job runs in slices ([`super::slice`]). Between slices it ends early when a loop budget ran out, when the
//! request's GPU time is used up, or when its session was dropped. Slices that ran are charged anyway.

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

/// How often jobs that wait for the GPU are checked, because their request may have ended.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// Assumed time for copying one MiB, in nanoseconds, until it was measured.
const MEBIBYTE_NS: u64 = 100_000;

/// The parts of a GPU thread.
pub(crate) struct GpuThreadParts {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) meters: SliceMeters,
    pub(crate) flag: Arc<BudgetFlag>,
    /// Target time of a slice in nanoseconds: alone on the GPU, and while others wait.
    pub(crate) slice_ns: [u64; 2],
    /// The thread stores here whether it holds a shared GPU.
    pub(crate) holds_gpu: Arc<AtomicBool>,
    /// The connection to the arbiter, if the GPU is shared.
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
    /// The number of the latest slice. A slice's number is never zero, because that is the flag's initial value.
    slice_number: u32,
    /// Measured time for copying one MiB, in nanoseconds.
    mebibyte_ns: u64,
}

/// Starts the thread. If that fails, the device counts as lost.
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
        slice_number: 0,
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
                tracing::error!(%error, "the gpu thread's runtime could not be built");
                self.parts.lost.store(true, Ordering::Relaxed);
                return self.refuse_all(&mut jobs);
            }
        };
        while self.receive(&runtime, &mut jobs) {
            let healthy = catch_unwind(AssertUnwindSafe(|| {
                // Also those behind the job whose turn it is: their request's answer waits for them.
                self.sweep();
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

    /// Receives jobs and the arbiter's messages. Waits for more while there is nothing to do. Returns false when no
    /// more can come.
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

    /// Sends the arbiter the message that is due, if any.
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

    /// Ends jobs that must stop while they wait for the GPU, for instance because their request has ended.
    fn sweep(&mut self) {
        for run in &mut self.running {
            if let Some(error) = run.stopped().filter(|_| run.wants_more()) {
                run.failed = Some(error);
            }
        }
        self.conclude();
    }

    /// Returns the index of the job whose turn it is, if it may submit now. Jobs take turns in order. A job that
    /// compiles never overlaps with others, so that work on the GPU never waits behind a compiler when the lease is
    /// revoked.
    fn next_run(&self) -> Option<usize> {
        let at = self.running.iter().position(RunningJob::wants_more)?;
        let may = match self.running.get(at) {
            Some(run) if run.job.compiles => self.in_flight.is_empty(),
            _ => self.lease.may_submit() && !self.in_flight.iter().any(|slice| slice.compiles),
        };
        may.then_some(at)
    }

    /// Ends all jobs that are over.
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

/// Why the thread wakes up.
enum Wake {
    Job(Job),
    Arbiter(ArbiterMessage),
    Time,
    Over,
}
