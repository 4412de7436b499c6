//! `gannet:jobs/job`: the job that a request is an attempt of, and its progress.
//!
//! ```text
//!  progress ─▶ checked ─▶ sent, and the guest waits for the answer ─▶ 50 ms pause ─▶ is there a later one? sent ─▶ pause …
//!                 └ within the pause: kept in place of the one before; the guest goes on
//! ```

use super::bindings::gannet::jobs::job::{Error, Host, Info};
use super::{ServicesCtx, confused};
use crate::guest::outbound::OutboundClient;
use gannet_base::hop::platform::{PROGRESS_BYTES_MAX, PlatformAnswer, PlatformCall, PlatformError};
use serde::de::IgnoredAny;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Least time from one progress that is sent to the next.
const PAUSE: Duration = Duration::from_millis(50);

/// The progress of one request. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProgressSender(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Whether one is being sent, or the pause after it lasts.
    is_sending: bool,
    /// The latest that came meanwhile.
    latest: Option<String>,
}

impl ProgressSender {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the data if they are to be sent now; otherwise they wait.
    fn begin(&self, data: String) -> Option<String> {
        let mut waiting = self.waiting();
        if waiting.is_sending {
            waiting.latest = Some(data);
            return None;
        }
        waiting.is_sending = true;
        Some(data)
    }

    /// Returns what came meanwhile. If there is nothing, the next one is sent at once.
    fn next(&self) -> Option<String> {
        let mut waiting = self.waiting();
        let latest = waiting.latest.take();
        waiting.is_sending = latest.is_some();
        latest
    }

    async fn send_later(self, client: OutboundClient) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let Some(data) = self.next() else { return };
            if let Err(error) = client.ask(&PlatformCall::Progress(data)).await {
                tracing::debug!(%error, "a job's progress was not told");
            }
        }
    }
}

fn error_of(error: PlatformError) -> Error {
    match error {
        PlatformError::NotAJob | PlatformError::Over => Error::NotAJob,
        PlatformError::Invalid(why) => Error::Invalid(why),
        other => Error::Other(other.to_string()),
    }
}

fn check(data: &str) -> Result<(), Error> {
    if data.len() > PROGRESS_BYTES_MAX {
        let length = data.len();
        return Err(Error::Invalid(format!("progress of {length} bytes; the limit is {PROGRESS_BYTES_MAX}")));
    }
    let json = serde_json::from_str::<IgnoredAny>(data);
    json.map(drop).map_err(|error| Error::Invalid(format!("progress must be JSON: {error}")))
}

impl ServicesCtx<'_> {
    async fn tell(&mut self, data: String) -> Result<(), PlatformError> {
        let client = self.client()?;
        let Some(data) = self.progress.begin(data) else { return Ok(()) };
        if let Err(error) = client.ask(&PlatformCall::Progress(data)).await {
            self.progress.next();
            return Err(error);
        }
        tokio::spawn(self.progress.clone().send_later(client));
        Ok(())
    }
}

impl Host for ServicesCtx<'_> {
    async fn current(&mut self) -> wasmtime::Result<Result<Info, Error>> {
        Ok(match self.ask(PlatformCall::CurrentJob).await {
            Ok(PlatformAnswer::Job { id, attempt }) => Ok(Info { id, attempt }),
            Ok(_) => Err(error_of(confused())),
            Err(error) => Err(error_of(error)),
        })
    }

    async fn progress(&mut self, data: String) -> wasmtime::Result<Result<(), Error>> {
        if let Err(error) = check(&data) {
            return Ok(Err(error));
        }
        Ok(self.tell(data).await.map_err(error_of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_that_comes_too_fast_is_replaced_by_the_latest() {
        let sender = ProgressSender::default();
        assert_eq!(sender.begin("1".into()).as_deref(), Some("1"));
        assert_eq!((sender.begin("2".into()), sender.begin("3".into())), (None, None));
        assert_eq!(sender.next().as_deref(), Some("3"));
        assert_eq!((sender.begin("4".into()), sender.next().as_deref()), (None, Some("4")));
        assert_eq!(sender.next(), None);
        assert_eq!(sender.begin("5".into()).as_deref(), Some("5"), "after a quiet time it is sent at once");
    }

    #[test]
    fn progress_is_json_of_a_bounded_length() {
        for right in ["1", "\"half\"", "{\"done\": [1, null]}"] {
            assert!(check(right).is_ok(), "{right}");
        }
        for wrong in ["", "half", "{", "1 2", &"1".repeat(PROGRESS_BYTES_MAX + 1)] {
            assert!(matches!(check(wrong), Err(Error::Invalid(_))));
        }
    }
}
