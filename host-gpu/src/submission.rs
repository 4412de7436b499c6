//! Submissions: work on its way, and what it took.

use crate::error::Error;
use crate::executor::{Executor, FinishedJob, Job, JobResult, StagingBuffer};
use crate::usage::{Clock, Usage, nanoseconds};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::{Semaphore, oneshot, watch};

/// What a submission took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// GPU time in nanoseconds.
    pub gpu_ns: u64,
    /// Slices it ran in.
    pub slices: u32,
    /// Where the time came from.
    pub clock: Clock,
}

/// A batch with a session's pending writes, ready for the GPU thread.
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
    /// Hands the work to the GPU thread, after waiting for one of the session's permits for submissions
    /// in flight.
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

/// Work that was handed to the GPU thread.
#[derive(Debug)]
pub struct Submission {
    state: State,
    reads: Vec<(u64, u64)>,
    usage: Arc<Usage>,
    finished: watch::Receiver<()>,
}

/// Becomes ready when a submission is done. It shares nothing with the submission that a guest
/// could drop too early.
#[derive(Debug)]
pub struct Finished(watch::Receiver<()>);

impl Finished {
    /// Waits until the GPU is done.
    pub async fn ready(&mut self) {
        // Nothing is ever sent; the channel closes when the work is done.
        while self.0.changed().await.is_ok() {}
    }
}

#[derive(Debug)]
enum State {
    Waiting(oneshot::Receiver<JobResult>),
    Ended(Result<(Receipt, Option<StagingBuffer>), Error>),
}

impl Submission {
    /// Waits until the GPU is done. Later calls answer the same.
    pub async fn wait(&mut self) -> Result<Receipt, Error> {
        self.finish().await;
        match &self.state {
            State::Ended(Ok((receipt, _))) => Ok(*receipt),
            State::Ended(Err(error)) => Err(error.clone()),
            State::Waiting(_) => Err(Error::lost()),
        }
    }

    /// Waits, then hands over the bytes of the reads, once.
    pub async fn take_reads(&mut self) -> Vec<Vec<u8>> {
        self.finish().await;
        let State::Ended(Ok((_, staged))) = &mut self.state else { return Vec::new() };
        let Some(staged) = staged.take() else { return Vec::new() };
        let reads: Option<Vec<Vec<u8>>> =
            self.reads.iter().map(|(offset, size)| staged.bytes(*offset, *size)).collect();
        reads.unwrap_or_default()
    }

    /// Waits, then hands over the bytes of the only read, once.
    pub async fn take_read(&mut self) -> Result<Vec<u8>, Error> {
        self.wait().await?;
        self.take_reads().await.pop().ok_or_else(Error::lost)
    }

    /// A handle that becomes ready when the GPU is done.
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
