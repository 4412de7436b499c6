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
//! Nothing is submitted without a lease, if the GPU is shared ([`crate::lease`]): asked back, the thread submits no more,
//! and gives it back when what is on the GPU has ended.
//!
//! A job runs in slices ([`crate::slice`]). Between slices it ends early when a loop budget ran out, when the
//! request's GPU time is used up, or when nobody waits any more; what ran is charged all the same.

use crate::Error;
use crate::device::Counters;
use crate::encode::Step;
use crate::flag::Flag;
use crate::in_flight::{InFlight, Notes, SLICES_MAX};
use crate::job::{Job, Running, end, exhausted, stopped};
use crate::lease::{self, Lease, Link, Told};
use crate::pace::Pace;
use crate::slice::{self, Piece, Plan, plan};
use crate::staging::{self, Header, Staging};
use crate::submission::Clock;
use crate::{Kernel, record};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The longest wait in one poll: how late a job may be submitted behind a running one.
const POLL_MAX: Duration = Duration::from_millis(1);
/// The same when nothing can be submitted before a slice ends: each wake takes time from a software driver's threads.
const POLL_FULL_MAX: Duration = Duration::from_millis(20);
/// How often jobs that wait for the GPU are looked at: their request may have ended.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// Nanoseconds for a mebibyte of copying, until it was measured.
const MEBIBYTE_NS: u64 = 100_000;

/// What the thread is made of.
pub(crate) struct Parts {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) staging: Arc<Staging>,
    pub(crate) flag: Arc<Flag>,
    /// What a slice should take, alone on the GPU and while others wait.
    pub(crate) slice_ns: [u64; 2],
    /// Tells whether a shared GPU is held.
    pub(crate) holds: Arc<AtomicBool>,
    /// The wires to the arbiter, if the GPU is shared.
    pub(crate) link: Option<Link>,
    pub(crate) lost: Arc<AtomicBool>,
    pub(crate) counters: Arc<Counters>,
}

struct GpuThread {
    parts: Parts,
    lease: Lease,
    notes: Notes,
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

pub(crate) fn spawn(mut parts: Parts, jobs: mpsc::Receiver<Job>) {
    let lost = Arc::clone(&parts.lost);
    let notes = Notes::new(parts.link.as_mut().and_then(|link| link.notes.take()));
    let thread = GpuThread {
        period: f64::from(parts.queue.get_timestamp_period()),
        lease: Lease::new(parts.link.is_some()),
        notes,
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
                self.running.push_back(Running::new(job));
            }
            while let Some(told) = self.parts.link.as_mut().and_then(|link| link.told.try_recv().ok()) {
                self.told(told);
            }
            self.speak();
            if !self.in_flight.is_empty() || self.next_run().is_some() {
                return true;
            }
            match runtime.block_on(self.wait(jobs)) {
                Event::Job(job) => self.running.push_back(Running::new(job)),
                Event::Told(told) => self.told(told),
                Event::Time => self.sweep(),
                Event::Over => return false,
            }
        }
    }

    async fn wait(&mut self, jobs: &mut mpsc::Receiver<Job>) -> Event {
        let sweep = (!self.running.is_empty()).then(|| Instant::now() + SWEEP_EVERY);
        let deadline = self.lease.deadline().into_iter().chain(sweep).min();
        let time = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let link = &mut self.parts.link;
        let told = async {
            match link {
                Some(link) => link.told.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            job = jobs.recv() => job.map_or(Event::Over, Event::Job),
            told = told => told.map_or(Event::Over, Event::Told),
            () = time => Event::Time,
        }
    }

    fn told(&mut self, told: Told) {
        let answer = self.lease.told(told, Instant::now());
        if let (Some(ask), Some(link)) = (answer, &mut self.parts.link) {
            (link.ask)(ask);
        }
    }

    /// Says to the arbiter what there is to say.
    fn speak(&mut self) {
        let Some(link) = &mut self.parts.link else { return };
        let compiling = self.in_flight.iter().any(|slice| slice.compiles);
        let work = !compiling && self.running.iter().any(|run| run.wants_more() && !run.job.compiles);
        let in_flight = self.in_flight.iter().any(|slice| !slice.compiles);
        if let Some(ask) = self.lease.next(work, in_flight, Instant::now()) {
            (link.ask)(ask);
        }
        self.parts.holds.store(self.lease.may_submit() || in_flight, Ordering::Relaxed);
    }

    /// Ends jobs that nobody waits for, while they wait for the GPU.
    fn sweep(&mut self) {
        for run in &mut self.running {
            if let Some(error) = stopped(run).filter(|_| run.wants_more()) {
                run.failed = Some(error);
            }
        }
        self.conclude();
    }

    /// The job whose turn it is, if it may go on: jobs take their turn in order. Compiling happens apart, so that what
    /// is on the GPU when it is asked back never stands behind a compiler.
    fn next_run(&self) -> Option<usize> {
        let at = self.running.iter().position(Running::wants_more)?;
        let may = match self.running.get(at) {
            Some(run) if run.job.compiles => self.in_flight.is_empty(),
            _ => self.lease.may_submit() && !self.in_flight.iter().any(|slice| slice.compiles),
        };
        may.then_some(at)
    }

    /// Submits the next slice, if there is one and it need not wait.
    fn submit_next(&mut self) -> bool {
        if self.in_flight.len() >= SLICES_MAX {
            return false;
        }
        let Some(at) = self.next_run() else { return false };
        if let Some(run) = self.running.get_mut(at)
            && let Some(error) = stopped(run)
        {
            run.failed = Some(error);
            self.conclude();
            return true;
        }
        let Some(plan) = self.running.get(at).and_then(|run| self.plan(run)) else { return false };
        let in_flight_ns = self.in_flight.iter().map(|slice| slice.expected_ns.max(1)).sum();
        if !lease::fits_behind(in_flight_ns, plan.expected_ns, self.slice_ns()) {
            return false;
        }
        self.submit(at, &plan);
        true
    }

    fn slice_ns(&self) -> u64 {
        let [alone, contended] = self.parts.slice_ns;
        if self.lease.is_contended() { contended } else { alone }
    }

    /// What the next slice of a job holds. None when it must wait until another was measured.
    fn plan(&self, run: &Running) -> Option<Plan> {
        if run.job.compiles {
            return Some(Plan::compile());
        }
        let measuring = |kernel: &Arc<Kernel>| {
            self.in_flight.iter().any(|slice| slice.kernels.iter().any(|(other, _)| Arc::ptr_eq(other, kernel)))
        };
        plan(&run.job.steps, (run.step, run.done), self.slice_ns(), self.mebibyte_ns, measuring)
    }

    fn submit(&mut self, at: usize, plan: &Plan) {
        self.number = self.number.checked_add(1).unwrap_or(1);
        let Self { parts, running, number, notes, .. } = self;
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
        notes.begins(number, &kernels);
        let commands = record::slice(&parts.device, &parts.flag, &run.job.steps, plan, &marks, header, number);
        let index = parts.queue.submit([commands]);
        if let Some(error) = crate::error::ready(scope.pop()).flatten() {
            run.failed = Some(crate::error::from_wgpu(error));
            notes.ends(number);
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
        (run.step, run.done, run.submitted_all) = (plan.step, plan.done, last);
        run.in_flight += 1;
        let compiles = run.job.compiles;
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
            expected_ns: plan.expected_ns,
            compiles,
        });
    }

    fn poll(&mut self) {
        let Some(oldest) = self.in_flight.front() else { return };
        let full = self.in_flight.len() >= SLICES_MAX || oldest.expected_ns >= lease::LONG_NS;
        let longest = if full { POLL_FULL_MAX } else { POLL_MAX };
        let waited = self
            .parts
            .device
            .poll(wgpu::PollType::Wait { submission_index: Some(oldest.index.clone()), timeout: Some(longest) });
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
        let (mut gpu_ns, clock) = self.measure(header, slice.marks.stamps.is_some(), slice.submitted, now);
        if slice.compiles {
            gpu_ns = 0;
        }
        self.previous_end_wall = now;
        self.learn(&slice, gpu_ns);
        self.notes.ends(slice.number);
        self.parts.staging.put_back(slice.marks);
        self.parts.counters.gpu_ns.fetch_add(gpu_ns, Ordering::Relaxed);
        let Some(run) = run.and_then(|at| self.running.get_mut(at)) else { return };
        run.in_flight -= 1;
        run.gpu_ns = run.gpu_ns.saturating_add(gpu_ns);
        run.slices += 1;
        if clock == Clock::Wall {
            run.clock = Clock::Wall;
        }
        if let Some(usage) = run.job.usage.as_ref().filter(|_| !slice.compiles) {
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

/// What the thread wakes up for.
enum Event {
    Job(Job),
    Told(Told),
    Time,
    Over,
}
