//! What clients do to batches, and their results.

use super::batch_read::{BatchError, BatchView};
use super::calls::ReadError;
use super::shared::{Jobs, to_its_end};
use super::state::Names;
use super::submit::SubmitError;
use crate::batch::{Batch, BatchState};
use crate::job::{BatchId, Job, JobId, State};
use crate::runner::Runner;
use futures::StreamExt;
use gannet_state::records::Revision;
use serde::Serialize;
use serde_json::value::RawValue;
use std::io;

/// Items that one page of results looks at.
const PAGE_ITEMS: usize = 500;
/// Bytes of results after which a page ends.
const PAGE_BYTES: usize = 1 << 20;
/// Items that are put into the queue again at once.
const RETRIES_AT_ONCE: usize = 64;

const ENDED: &[State] = &[State::Completed, State::Failed, State::Cancelled, State::TimedOut];

/// A page of the results of a batch.
#[derive(Debug)]
pub struct ResultsPage {
    /// A line of JSON for each item that has ended.
    pub lines: Vec<u8>,
    /// The index from which the next page goes on. None: it is the last.
    pub next: Option<u32>,
}

/// Items that were put into the queue again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = BatchRetried)]
pub struct RetriedItems {
    /// How many.
    pub retried: u64,
    /// The batch then.
    #[serde(flatten)]
    pub batch: BatchView,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultLine<'a> {
    index: u32,
    id: String,
    status: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
}

impl ResultLine<'_> {
    fn write(&self, lines: &mut Vec<u8>) -> io::Result<()> {
        let from = lines.len();
        serde_json::to_writer(&mut *lines, self)?;
        // An output is as its function wrote it; a line break in JSON is only ever between its values.
        for byte in lines.iter_mut().skip(from).filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
        lines.push(b'\n');
        Ok(())
    }
}

impl From<ReadError> for BatchError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => error.into(),
            ReadError::LimitReached { limit, used } => {
                SubmitError::LimitReached { name: "jobs_queued", limit, used }.into()
            }
            ReadError::NotFound | ReadError::NotRetryable(_) => Self::NotFound,
        }
    }
}

impl<R: Runner> Jobs<R> {
    /// Writes the record of a batch.
    async fn write(&self, mut batch: Batch, revision: Revision) -> Result<(), BatchError> {
        let committed = self.shared.commit_batch(&mut batch, Some(revision), Vec::new()).await?;
        let revision = committed.map_err(|error| SubmitError::Store(io::Error::other(error)))?;
        self.shared.state().batches.accepted(batch, revision);
        Ok(())
    }

    /// Closes a batch: no more items are added.
    pub async fn close_batch(&self, names: &Names, id: BatchId) -> Result<BatchView, BatchError> {
        let (jobs, names) = (self.clone(), names.clone());
        let closing = async move {
            let _alone = jobs.change(&names, id).await?;
            let (mut batch, revision) = jobs.record_of(&names, id)?;
            if batch.closed.is_none() {
                batch.closed = Some(jobs.shared.clock.now());
                jobs.write(batch, revision).await?;
            }
            jobs.batch(&names, id)
        };
        to_its_end(closing).await?
    }

    /// Cancels the items of a batch that wait, and closes it. Those that run are left running.
    pub async fn cancel_batch(&self, names: &Names, id: BatchId) -> Result<BatchView, BatchError> {
        let (jobs, names) = (self.clone(), names.clone());
        let cancelling = async move {
            let _alone = jobs.change(&names, id).await?;
            let (mut batch, revision) = jobs.record_of(&names, id)?;
            let now = jobs.shared.clock.now();
            if batch.cancelled.is_none() && jobs.batch(&names, id)?.status != BatchState::Completed {
                (batch.cancelled, batch.closed) = (Some(now), batch.closed.or(Some(now)));
                jobs.write(batch, revision).await?;
            }
            let waiting: Vec<JobId> = jobs.with_batch(&names, id, |known| {
                known.children.those(0, &[State::InQueue]).map(|index| JobId::item(id, index)).collect()
            })?;
            jobs.cancel_waiting(&waiting).await?;
            jobs.batch(&names, id)
        };
        to_its_end(cancelling).await?
    }

    /// Puts the items of a batch that failed, or whose time was over, into the queue again.
    pub async fn retry_batch(&self, names: &Names, id: BatchId) -> Result<RetriedItems, BatchError> {
        let (jobs, names) = (self.clone(), names.clone());
        let retrying = async move {
            let _alone = jobs.change(&names, id).await?;
            if jobs.record_of(&names, id)?.0.cancelled.is_some() {
                return Err(BatchError::Cancelled(id));
            }
            let failed: Vec<JobId> = jobs.with_batch(&names, id, |known| {
                let failed = known.children.those(0, &[State::Failed, State::TimedOut]);
                failed.map(|index| JobId::item(id, index)).collect()
            })?;
            let (mut batch, revision) = jobs.record_of(&names, id)?;
            // First: their ends are told as another end, also if the server ends in between.
            if !failed.is_empty() && batch.begin_again() {
                jobs.write(batch, revision).await?;
            }
            let again = futures::stream::iter(failed).map(|item| {
                let (jobs, names) = (jobs.clone(), names.clone());
                async move { jobs.retry(&names, item).await }
            });
            let mut again = std::pin::pin!(again.buffer_unordered(RETRIES_AT_ONCE));
            let mut retried = 0;
            while let Some(one) = again.next().await {
                match one {
                    Ok(_) => retried += 1,
                    // Somebody else was faster, or its record is lost.
                    Err(ReadError::NotRetryable(_) | ReadError::NotFound) => {}
                    Err(error @ (ReadError::Store(_) | ReadError::LimitReached { .. })) => return Err(error.into()),
                }
            }
            Ok(RetriedItems { retried, batch: jobs.batch(&names, id)? })
        };
        to_its_end(retrying).await?
    }

    /// Returns results of a batch from an index on, in the order of the items: of those that have ended.
    pub async fn batch_results(&self, names: &Names, id: BatchId, from: u32) -> Result<ResultsPage, BatchError> {
        let ended: Vec<u32> =
            self.with_batch(names, id, |known| known.children.those(from, ENDED).take(PAGE_ITEMS).collect())?;
        let (mut lines, is_full) = (Vec::new(), ended.len() == PAGE_ITEMS);
        let last = ended.last().copied();
        for index in ended {
            let item = JobId::item(id, index);
            match self.shared.read(item).await? {
                Some((job, _)) if job.state.is_terminal() => self.write_result(&job, index, &mut lines).await?,
                // It was put into the queue again.
                Some(_) => {}
                None => {
                    // Gone with the whole batch, or lost with a damaged disk.
                    self.with_batch(names, id, |_| ())?;
                    let (error, error_code) = (Some("the record of the item is lost"), Some("record_lost"));
                    let (id, status, output) = (item.to_string(), State::Failed, None);
                    ResultLine { index, id, status, output, error, error_code }.write(&mut lines)?;
                }
            }
            if lines.len() >= PAGE_BYTES && Some(index) != last {
                return Ok(ResultsPage { lines, next: Some(index + 1) });
            }
        }
        Ok(ResultsPage { lines, next: last.filter(|_| is_full).map(|last| last + 1) })
    }

    async fn write_result(&self, job: &Job, index: u32, lines: &mut Vec<u8>) -> io::Result<()> {
        let output = self.shared.output(job).await?;
        let output: Option<&RawValue> = output.as_deref().map(serde_json::from_slice).transpose()?;
        let (error, error_code) = (job.error.as_deref(), job.error_code.as_deref());
        ResultLine { index, id: job.id.to_string(), status: job.state, output, error, error_code }.write(lines)
    }
}
