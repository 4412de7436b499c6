//! Errors of the job API.

use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::inbound::RequestError;
use gannet_jobs::service::{ReadError, SubmitError};
use gannet_state::store::StoreError;

/// Why a call of the job API failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobApiError {
    /// An argument or the body is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The body cannot be read.
    #[error(transparent)]
    Request(RequestError),
    /// There is no such job.
    #[error("there is no such job of this function, or its result is not kept any more")]
    NotFound,
    /// The client was told already that the job is cancelled.
    #[error("the stream is over: the job was cancelled")]
    StreamOver,
    /// A job was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A job cannot be shown or changed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<std::io::Error> for JobApiError {
    fn from(error: std::io::Error) -> Self {
        Self::Submit(SubmitError::Store(error))
    }
}

impl From<StoreError> for JobApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Submit(SubmitError::Full),
            error => std::io::Error::other(error).into(),
        }
    }
}

impl From<JobApiError> for Refusal {
    fn from(error: JobApiError) -> Self {
        use RefusalKind as K;
        let caller = |kind, code| Self::new(kind, code, Blame::Caller, &error);
        match &error {
            JobApiError::Invalid(_) => caller(K::Malformed, "invalid_request"),
            JobApiError::Request(error) => error.clone().into(),
            JobApiError::NotFound | JobApiError::Read(ReadError::NotFound) => caller(K::NotFound, "job_not_found")
                .hint("results are kept for `jobs.result_s`, those of runsync for a minute"),
            JobApiError::StreamOver => caller(K::NotFound, "stream_over"),
            JobApiError::Read(ReadError::NotRetryable(_)) => caller(K::Malformed, "job_not_retryable").permanent(),
            JobApiError::Submit(SubmitError::NoFunction) => caller(K::NotFound, "not_found"),
            JobApiError::Submit(SubmitError::LimitReached { .. })
            | JobApiError::Read(ReadError::LimitReached { .. }) => caller(K::TooManyRequests, "tenant_limit")
                .retry_after(5)
                .hint("`gannet limits` shows the tenant's limits; the operator sets them"),
            JobApiError::Submit(SubmitError::OtherBody { .. }) => {
                caller(K::Conflict, "idempotency_key_reused").permanent()
            }
            JobApiError::Submit(SubmitError::Full) => {
                Self::new(K::StorageFull, "storage_full", Blame::Platform, &error).retry_after(60)
            }
            JobApiError::Submit(SubmitError::Store(cause)) | JobApiError::Read(ReadError::Store(cause)) => {
                Self::new(K::Unavailable, "store_unavailable", Blame::Platform, "the store of jobs does not work now")
                    .internal(cause)
                    .retry_after(1)
            }
        }
    }
}
