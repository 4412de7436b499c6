//! A job on the GPU thread: its progress, the reasons to stop it early, and its end.

use super::job::{FinishedJob, Job};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::usage::Clock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Limit of the kernels that an error names.
const KERNELS_NAMED_MAX: usize = 3;

/// A job that the GPU thread has received and that is not over.
pub(crate) struct RunningJob {
    pub(crate) job: Job,
    /// Index of the next step to submit.
    pub(crate) step: usize,
    /// Workgroups or bytes of that step that are submitted already.
    pub(crate) done: u64,
    /// Number of the job's slices on the GPU.
    pub(crate) in_flight: usize,
    pub(crate) submitted_all: bool,
    pub(crate) began: bool,
    pub(crate) failed: Option<Error>,
    pub(crate) gpu_ns: u64,
    pub(crate) slices: u32,
    pub(crate) clock: Clock,
}

impl RunningJob {
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

    /// Returns whether the job has something left to submit.
    pub(crate) fn wants_more(&self) -> bool {
        !self.submitted_all && self.failed.is_none()
    }

    /// Returns whether the job has no slice on the GPU and will submit no more.
    pub(crate) fn is_over(&self) -> bool {
        self.in_flight == 0 && (self.submitted_all || self.failed.is_some())
    }

    /// Returns the error with which the job stops now: its session was dropped, or its request's GPU time is used up.
    pub(crate) fn stopped(&self) -> Option<Error> {
        let usage = self.job.usage.as_ref()?;
        if usage.cancelled.load(Ordering::Relaxed) {
            return Some(Error::DeadlineExceeded("the request has ended, so its gpu work was cancelled".into()));
        }
        let used = usage.gpu_ns.load(Ordering::Relaxed);
        (used >= self.job.gpu_ns_max && self.began).then(|| {
            Error::DeadlineExceeded(format!(
                "the request has used {} ms of gpu time; its limit is {} ms",
                used / 1_000_000,
                self.job.gpu_ns_max / 1_000_000
            ))
        })
    }

    /// Drops what the job kept alive and sends its result.
    pub(crate) fn end(&mut self) {
        let (unused, _) = oneshot::channel();
        let done = std::mem::replace(&mut self.job.done, unused);
        let (mut upload, mut readback) = (self.job.upload.take(), self.job.readback.take());
        if self.submitted_all {
            for staged in upload.iter_mut().chain(readback.iter_mut()) {
                staged.mark_used();
            }
        }
        // The steps hold buffers too, so they are dropped before the result is sent.
        drop((upload, std::mem::take(&mut self.job.steps), std::mem::take(&mut self.job.keep_alive)));
        let result = match self.failed.take() {
            Some(error) => {
                // Dropped first, so that its charge is returned before the receiver sees the error.
                drop(readback);
                Err(error)
            }
            None => Ok(FinishedJob { gpu_ns: self.gpu_ns, slices: self.slices, clock: self.clock, readback }),
        };
        // If the receiver was dropped, its instance has ended. The work was charged anyway.
        let _ = done.send(result);
    }
}

/// Returns the error of a job in which a loop budget ran out, in a slice with these kernels.
pub(crate) fn exhausted(kernels: &[(Arc<Kernel>, u64)], loop_work: u32) -> Error {
    let counted = kernels.iter().filter(|(kernel, _)| kernel.report.has_counted_loops);
    let mut reasons: Vec<String> = counted.map(|(kernel, _)| kernel.exhausted(loop_work)).collect();
    reasons.dedup();
    // A slice with many kernels: the flag does not say which one set it.
    reasons.truncate(KERNELS_NAMED_MAX);
    Error::BudgetExhausted(format!("{}; the results of this submission are void", reasons.join("; or ")))
}
