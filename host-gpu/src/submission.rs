//! Submissions: batches that were handed to the GPU thread, their receipts and their reads.

use crate::error::Error;
use crate::executor::{Executor, FinishedJob, Job, JobResult, StagingBuffer};
use crate::usage::{Clock, Usage, nanoseconds};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::{Semaphore, oneshot, watch};

/// GPU time and slices of one submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// GPU time in nanoseconds.
    pub gpu_ns: u64,
    /// Number of slices in which it ran.
    pub slices: u32,
    /// The clock that measured the time.
    pub clock: Clock,
}

/// A batch, with its session's pending writes, as a job for the GPU thread.
pub struct EncodedBatch {
    pub(crate) job: Job,
    pub(crate) done: oneshot::Receiver<JobResult>,
    /// Offset and size of each read in the readback buffer.
    pub(crate) reads: Vec<(u64, u64)>,
    pub(crate) usage: Arc<Usage>,
    /// The session's permits for submissions in flight.
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) executor: Arc<Executor>,
}

impl std::fmt::Debug for EncodedBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodedBatch").field("reads", &self.reads).finish_non_exhaustive()
    }
}

impl EncodedBatch {
    /// Waits for one of the session's permits for submissions in flight, then hands the job to the GPU thread.
    pub async fn submit(self) -> Result<Submission, Error> {
        let Self { mut job, done, reads, usage, in_flight, executor } = self;
        let started = Instant::now();
        let permit = in_flight.acquire_owned().await.map_err(|_| Error::lost())?;
        let (sender, finished) = watch::channel(());
        job.keep_alive.push(Box::new(permit));
        job.keep_alive.push(Box::new(sender));
        executor.send(job).await?;
        usage.waited_ns.fetch_add(nanoseconds(started.elapsed()), Ordering::Relaxed);
        Ok(Submission { state: State::Waiting(done), reads, usage, finished })
    }
}

/// A submission that was handed to the GPU thread.
#[derive(Debug)]
pub struct Submission {
    state: State,
    reads: Vec<(u64, u64)>,
    usage: Arc<Usage>,
    finished: watch::Receiver<()>,
}

/// Becomes ready when a submission is done. It stays valid if the guest drops the submission first.
#[derive(Debug)]
pub struct Finished(watch::Receiver<()>);

impl Finished {
    /// Waits until the GPU is done.
    pub async fn ready(&mut self) {
        // Nothing is ever sent. The channel closes when the job is done, because the job holds the sender.
        while self.0.changed().await.is_ok() {}
    }
}

#[derive(Debug)]
enum State {
    Waiting(oneshot::Receiver<JobResult>),
    Ended(Result<(Receipt, Option<StagingBuffer>), Error>),
}

impl Submission {
    /// Waits until the GPU is done. Later calls return the same result.
    pub async fn wait(&mut self) -> Result<Receipt, Error> {
        self.finish().await;
        match &self.state {
            State::Ended(Ok((receipt, _))) => Ok(*receipt),
            State::Ended(Err(error)) => Err(error.clone()),
            State::Waiting(_) => Err(Error::lost()),
        }
    }

    /// Waits until the GPU is done and returns the bytes of the reads. Returns nothing after a failure or at a later
    /// call.
    pub async fn take_reads(&mut self) -> Vec<Vec<u8>> {
        self.finish().await;
        let State::Ended(Ok((_, staged))) = &mut self.state else { return Vec::new() };
        let Some(staged) = staged.take() else { return Vec::new() };
        let reads: Option<Vec<Vec<u8>>> =
            self.reads.iter().map(|(offset, size)| staged.bytes(*offset, *size)).collect();
        reads.unwrap_or_default()
    }

    /// Waits until the GPU is done and returns the bytes of the only read. Fails at a later call.
    pub async fn take_read(&mut self) -> Result<Vec<u8>, Error> {
        self.wait().await?;
        self.take_reads().await.pop().ok_or_else(Error::lost)
    }

    /// Returns a handle that becomes ready when the GPU is done.
    pub fn finished(&self) -> Finished {
        Finished(self.finished.clone())
    }

    async fn finish(&mut self) {
        let State::Waiting(done) = &mut self.state else { return };
        let started = Instant::now();
        let result = done.await.unwrap_or_else(|_| Err(Error::lost()));
        self.usage.waited_ns.fetch_add(nanoseconds(started.elapsed()), Ordering::Relaxed);
        self.state = State::Ended(
            result.map(|FinishedJob { gpu_ns, slices, clock, readback }| (Receipt { gpu_ns, slices, clock }, readback)),
        );
    }
}
