//! Jobs: what a submission is to the GPU thread, and how far one has come.

use crate::Error;
use crate::Kernel;
use crate::encode::Step;
use crate::memory::Charge;
use crate::session::Usage;
use crate::staging::Staged;
use crate::submission::Clock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

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
    /// Whether it only makes a software driver compile: its one dispatch has no workgroups. That is no work on a GPU,
    /// so it needs no lease and costs no GPU time.
    pub(crate) compiles: bool,
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
        let job = Self {
            steps,
            upload: None,
            readback: None,
            keep: Vec::new(),
            usage: None,
            gpu_ns_max: u64::MAX,
            compiles: false,
            done,
        };
        (job, receiver)
    }
}

/// A job that has begun, or is next.
pub(crate) struct Running {
    pub(crate) job: Job,
    /// The step that comes next, and how much of it is submitted: workgroups or bytes.
    pub(crate) step: usize,
    pub(crate) done: u64,
    pub(crate) in_flight: usize,
    pub(crate) submitted_all: bool,
    pub(crate) began: bool,
    pub(crate) failed: Option<Error>,
    pub(crate) gpu_ns: u64,
    pub(crate) slices: u32,
    pub(crate) clock: Clock,
}

impl Running {
    pub(crate) fn new(job: Job) -> Self {
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
    pub(crate) fn wants_more(&self) -> bool {
        !self.submitted_all && self.failed.is_none()
    }
}

/// Tells whoever waits, and lets go of what the job kept alive.
pub(crate) fn end(run: &mut Running) {
    let (unused, _) = oneshot::channel();
    let done = std::mem::replace(&mut run.job.done, unused);
    let (mut upload, mut readback) = (run.job.upload.take(), run.job.readback.take());
    if run.submitted_all {
        for staged in upload.iter_mut().chain(readback.iter_mut()) {
            staged.prove();
        }
    }
    // Its steps hold buffers too.
    drop((upload, std::mem::take(&mut run.job.steps), std::mem::take(&mut run.job.keep)));
    let result = match run.failed.take() {
        Some(error) => {
            // Given back before anyone is told.
            drop(readback);
            Err(error)
        }
        None => Ok(Done { gpu_ns: run.gpu_ns, slices: run.slices, clock: run.clock, readback }),
    };
    // A receiver that is gone belongs to an instance that ended; its work was charged all the same.
    let _ = done.send(result);
}

/// Why a job gets no further slice.
pub(crate) fn stopped(run: &Running) -> Option<Error> {
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

pub(crate) fn exhausted(kernels: &[(Arc<Kernel>, u64)]) -> Error {
    let budget = kernels.iter().filter(|(kernel, _)| kernel.counts).map(|(kernel, _)| kernel.budget.apart).min();
    Error::BudgetExhausted(format!(
        "a loop ran out of its budget of {} {}; the results of this submission are void",
        budget.unwrap_or_default(),
        kernels.first().map_or("operations", |(kernel, _)| kernel.budget_unit())
    ))
}
