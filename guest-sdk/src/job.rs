//! The background job that a request is an attempt of. A job comes as a POST of `{"id", "input"}`; this tells how far it is.

use crate::bindings::gannet::jobs::job as wit;
use std::fmt;

/// Why a call failed.
///
/// ```
/// # use gannet_sdk::job::Error;
/// assert_eq!(Error::NotAJob.to_string(), "the request is no attempt of a job");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request is no attempt of a job.
    NotAJob,
    /// The progress is no JSON, or longer than 64 KiB.
    Invalid(String),
    /// The server could not be asked.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAJob => f.write_str("the request is no attempt of a job"),
            Self::Invalid(why) | Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        match error {
            wit::Error::NotAJob => Self::NotAJob,
            wit::Error::Invalid(why) => Self::Invalid(why),
            wit::Error::Other(why) => Self::Other(why),
        }
    }
}

/// The attempt of a job that a request is.
///
/// ```no_run
/// # use gannet_sdk::job;
/// let job = job::current()?;
/// println!("job {}, attempt {}", job.id, job.attempt);
/// # Ok::<(), job::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The job's id.
    pub id: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
}

/// Returns the job that this request is an attempt of.
///
/// ```no_run
/// # use gannet_sdk::job;
/// let is_job = job::current().is_ok();
/// ```
pub fn current() -> Result<Job, Error> {
    let wit::Info { id, attempt } = wit::current()?;
    Ok(Job { id, attempt })
}

/// Tells how far the job is. Clients see it as `output` while the job is IN_PROGRESS. Of several that follow each other
/// fast, the last one counts. Needs the feature `json`.
///
/// ```no_run
/// # use gannet_sdk::job;
/// for page in 0..10 {
///     job::progress(&format!("page {page} of 10"))?;
/// }
/// # Ok::<(), job::Error>(())
/// ```
#[cfg(feature = "json")]
pub fn progress(data: &(impl serde::Serialize + ?Sized)) -> Result<(), Error> {
    let text = serde_json::to_string(data).map_err(|error| Error::Invalid(error.to_string()))?;
    progress_json(&text)
}

/// Does what `progress` (feature `json`) does, with a text that is JSON already.
///
/// ```no_run
/// # use gannet_sdk::job;
/// job::progress_json(r#"{"percent": 50}"#)?;
/// # Ok::<(), job::Error>(())
/// ```
pub fn progress_json(data: &str) -> Result<(), Error> {
    Ok(wit::progress(data)?)
}
