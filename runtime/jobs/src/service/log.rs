//! The log of a job: the lines of its attempts, kept as long as its record. The logs of functions are in memory only and
//! shared by all their requests.

use super::shared::Shared;
use super::state::Names;
use crate::job::JobId;
use crate::keys;
use crate::runner::Runner;
use gannet_base::log_line::LogLine;
use gannet_base::names::{RequestId, TenantName};
use gannet_state::records::{Change, CommitError, Expect};
use std::io;
use std::time::Duration;

/// The largest log of a job, in bytes of JSON. Of a longer one the oldest lines go.
const LOG_BYTES_MAX: usize = 256 << 10;
/// When it is looked for lines after an attempt: they arrive on another way than its answer.
const ARRIVE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Adds the lines of an attempt that has ended to the log of its job.
pub(super) async fn keep<R: Runner>(shared: &Shared<R>, names: &Names, id: JobId, request: RequestId) {
    let mut kept = 0;
    for wait in ARRIVE {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.stopping.cancelled() => {}
        }
        let lines = shared.runner.log(&names.0, &names.1, request);
        if lines.len() <= kept {
            continue;
        }
        kept = lines.len();
        if let Err(error) = put(shared, &names.0, (id, request), &lines).await {
            tracing::warn!(job = %id, %error, "the log of a job could not be kept");
        }
    }
}

/// Puts the lines of an attempt into the log of its job, in place of those that are there of it.
async fn put<R: Runner>(
    shared: &Shared<R>,
    tenant: &TenantName,
    (id, request): (JobId, RequestId),
    lines: &[LogLine],
) -> io::Result<()> {
    let key = keys::log(id);
    let bytes = loop {
        let before = shared.records.get(&key).await?;
        let expect = before.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        let before = before.map(|entry| serde_json::from_slice(&entry.value)).transpose().map_err(io::Error::other)?;
        let mut kept: Vec<LogLine> = before.unwrap_or_default();
        kept.retain(|line| line.request != request);
        kept.extend_from_slice(lines);
        kept.sort_by_key(|line| line.time);
        let mut value = serde_json::to_vec(&kept)?;
        while value.len() > LOG_BYTES_MAX {
            // A line is a hundred bytes or more, so this is seldom repeated.
            kept.drain(..kept.len().div_ceil(8));
            value = serde_json::to_vec(&kept)?;
        }
        let bytes = value.len() as u64;
        match shared.records.commit(vec![Change::Put { key: key.clone(), value, expect }]).await {
            Ok(_) => break bytes,
            // Another attempt has just ended.
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    };
    shared.state().count_log(tenant, id, bytes);
    // If the job was removed meanwhile, nobody else would remove its log.
    if shared.read(id).await?.is_none() {
        let gone = Change::Delete { key, expect: Expect::Any };
        shared.records.commit(vec![gone]).await.map_err(io::Error::other)?;
        shared.state().count_log(tenant, id, 0);
    }
    Ok(())
}

/// Reads the lines that are kept of a job.
pub(super) async fn read<R: Runner>(shared: &Shared<R>, id: JobId) -> io::Result<Vec<LogLine>> {
    let Some(entry) = shared.records.get(&keys::log(id)).await? else { return Ok(Vec::new()) };
    serde_json::from_slice(&entry.value).map_err(io::Error::other)
}
