//! The records of deliveries: of those that are pending and of those that were given up.

use crate::batch::Batch;
use crate::job::{Job, JobId, Millis};
use gannet_base::names::{FunctionName, TenantName};
use serde::{Deserialize, Serialize};

/// A delivery that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The job's tenant.
    pub tenant: TenantName,
    /// The job's function.
    pub function: FunctionName,
    /// The address.
    pub url: String,
    /// When the job ended, or the client asked for the delivery anew.
    pub since: Millis,
    /// The next try is not made before.
    pub next_at: Millis,
    /// Tries that failed.
    #[serde(default)]
    pub tries: u32,
    /// How often a client had put the job into the queue again before it ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retried: u32,
    /// Whether it tells the end of a batch, whose id is in the place of a job's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_batch: bool,
    /// Why the latest try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What it was.
    #[serde(flatten)]
    pub pending: Pending,
    /// When it was given up.
    pub died: Millis,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Pending {
    /// Returns the delivery of a job that has ended, if it has a webhook.
    pub fn of(job: &Job) -> Option<Self> {
        let since = job.ended.filter(|_| job.state.is_terminal())?;
        Some(Self {
            tenant: job.tenant.clone(),
            function: job.function.clone(),
            url: job.webhook.clone()?,
            since,
            next_at: since,
            tries: 0,
            retried: job.retried,
            is_of_batch: false,
            last_error: None,
        })
    }

    /// Returns the delivery of the end of a batch, if it has a webhook.
    pub fn of_batch(batch: &Batch, now: Millis) -> Option<Self> {
        Some(Self {
            tenant: batch.tenant.clone(),
            function: batch.function.clone(),
            url: batch.webhook.clone()?,
            since: now,
            next_at: now,
            tries: 0,
            retried: batch.rounds,
            is_of_batch: true,
            last_error: None,
        })
    }

    /// Returns when the next try may be made after a start. A clock that was put back since it began does not count.
    pub fn due(&self, now: Millis) -> Millis {
        self.next_at.saturating_sub(self.since.saturating_sub(now).max(0))
    }

    /// Returns the id of its message: the job's, or the batch's. The end of a job that a client has put into the queue again is another
    /// message, which a receiver must not take for a repetition of the first.
    pub fn message_id(&self, job: JobId) -> String {
        if self.retried == 0 { job.to_string() } else { format!("{job}-{}", self.retried) }
    }
}
