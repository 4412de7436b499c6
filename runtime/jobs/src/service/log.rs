//! The log of a job: the lines of its attempts, kept as long as its record. The logs of functions are in memory only and
//! shared by all their requests.

use super::calls::ReadError;
use super::shared::{Jobs, Shared};
use super::state::Names;
use crate::job::JobId;
use crate::keys;
use crate::runner::Runner;
use gannet_base::log_line::LogLine;
use gannet_base::names::RequestId;
use gannet_state::records::{Change, Expect};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// The largest log of a job, in bytes of JSON. Of a longer one the oldest lines go.
const LOG_BYTES_MAX: usize = 256 << 10;
/// How long the last lines of an attempt may take to arrive after its answer.
const ARRIVE: Duration = Duration::from_millis(200);

/// Adds the lines of an attempt that has ended to the log of its job.
pub(super) async fn keep<R: Runner>(shared: &Shared<R>, names: &Names, id: JobId, request: RequestId) {
    tokio::time::sleep(ARRIVE).await;
    let lines = shared.runner.log(&names.0, &names.1, request);
    if lines.is_empty() {
        return;
    }
    if let Err(error) = add(shared, id, lines).await {
        tracing::warn!(job = %id, %error, "the log of a job could not be kept");
    }
}

async fn add<R: Runner>(shared: &Shared<R>, id: JobId, lines: Vec<LogLine>) -> io::Result<()> {
    let mut kept: VecDeque<LogLine> = read(shared, id).await?.into();
    kept.extend(lines);
    let mut value = serde_json::to_vec(&kept)?;
    while value.len() > LOG_BYTES_MAX {
        // A line is a hundred bytes or more, so this is seldom repeated.
        kept.drain(..kept.len().div_ceil(8));
        value = serde_json::to_vec(&kept)?;
    }
    let log = Change::Put { key: keys::log(id), value, expect: Expect::Any };
    shared.records.commit(vec![log]).await.map_err(io::Error::other)?;
    // If the job was removed meanwhile, nobody else would remove its log.
    let is_gone = shared.read(id).await?.is_none();
    if is_gone {
        let gone = Change::Delete { key: keys::log(id), expect: Expect::Any };
        shared.records.commit(vec![gone]).await.map_err(io::Error::other)?;
    }
    Ok(())
}

async fn read<R: Runner>(shared: &Shared<R>, id: JobId) -> io::Result<Vec<LogLine>> {
    let Some(entry) = shared.records.get(&keys::log(id)).await? else { return Ok(Vec::new()) };
    serde_json::from_slice(&entry.value).map_err(io::Error::other)
}

impl<R: Runner> Jobs<R> {
    /// Returns the log of a job: the lines of its attempts that have ended, and of the one that runs.
    pub async fn log(&self, names: &Names, id: JobId) -> Result<Vec<LogLine>, ReadError> {
        let shared = &self.shared;
        let (job, _) = shared.of(names, id).await?;
        let mut lines = read(shared, id).await?;
        // What has not been kept yet.
        if let Some(request) = job.request.filter(|request| !lines.iter().any(|line| line.request == *request)) {
            lines.extend(shared.runner.log(&names.0, &names.1, request));
        }
        Ok(lines)
    }
}
