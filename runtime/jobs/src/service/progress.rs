//! The progress that attempts tell of themselves.
//!
//! It is kept in memory, the latest only, and shown while the job is IN_PROGRESS. An attempt is found by its request, from
//! its beginning until it has run: what comes later, or from a request that is no attempt, is refused. So an attempt that
//! is late can tell nothing about the one after it.

use super::shared::Jobs;
use crate::job::JobId;
use crate::runner::Runner;
use gannet_base::hop::platform::PROGRESS_BYTES_MAX;
use gannet_base::names::{RequestId, TenantName};
use serde::de::IgnoredAny;
use std::sync::PoisonError;

/// Why progress is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    /// The request is no attempt of a job, or the attempt is over.
    #[error("the request is no attempt of a job")]
    NotAJob,
    /// It is no JSON, or too long.
    #[error("progress of {length} bytes; it must be JSON of at most {PROGRESS_BYTES_MAX}")]
    Invalid {
        /// Its length in bytes.
        length: usize,
    },
}

impl<R: Runner> Jobs<R> {
    /// Returns the job that a request of a tenant is an attempt of, and the number of the attempt.
    pub fn of_attempt(&self, tenant: &TenantName, request: RequestId) -> Option<(JobId, u32)> {
        let state = self.shared.state();
        let attempt = state.attempts.get(&request).filter(|attempt| attempt.tenant == *tenant)?;
        Some((attempt.job, attempt.number))
    }

    /// Keeps what an attempt tells of its progress, in place of what it told before.
    pub fn progress(&self, tenant: &TenantName, request: RequestId, data: String) -> Result<(), ProgressError> {
        if data.len() > PROGRESS_BYTES_MAX || serde_json::from_str::<IgnoredAny>(&data).is_err() {
            return Err(ProgressError::Invalid { length: data.len() });
        }
        let state = self.shared.state();
        let attempt = state.attempts.get(&request).filter(|attempt| attempt.tenant == *tenant);
        let running = &attempt.ok_or(ProgressError::NotAJob)?.running;
        if running.cancelled.is_cancelled() {
            return Err(ProgressError::NotAJob);
        }
        *running.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(data.into_bytes());
        Ok(())
    }
}
