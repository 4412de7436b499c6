//! Submissions: work on its way, and what it took.

use crate::Error;
use crate::batch::Encoded;
use crate::job::{Done, Keep};
use crate::session::{Usage, nanoseconds};
use crate::staging::Staged;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// Where GPU time came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Timestamps that the GPU wrote.
    Gpu,
    /// Wall time of the submission.
    Wall,
}

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

/// See the module.
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
    Waiting(oneshot::Receiver<Result<Done, Error>>),
    Ended(Result<(Receipt, Option<Staged>), Error>),
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done").field("gpu_ns", &self.gpu_ns).finish_non_exhaustive()
    }
}

impl Encoded {
    /// Hands the work to the GPU thread, after waiting for a place among the session's submissions
    /// in flight.
    pub async fn submit(self) -> Result<Submission, Error> {
        let Self { mut job, done, reads, usage, in_flight, jobs } = self;
        let started = Instant::now();
        let permit = in_flight.acquire_owned().await.map_err(|_| Error::lost())?;
        let (sender, finished) = watch::channel(());
        job.keep.extend([Keep::Place(permit), Keep::Finished(sender)]);
        jobs.send(job).await.map_err(|_| Error::lost())?;
        usage.waited_ns.fetch_add(nanoseconds(started.elapsed()), Ordering::Relaxed);
        Ok(Submission { state: State::Waiting(done), reads, usage, finished })
    }
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
            result.map(|Done { gpu_ns, slices, clock, readback }| (Receipt { gpu_ns, slices, clock }, readback)),
        );
    }
}
