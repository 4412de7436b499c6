//! Waits for all submissions of a session, even after the session was dropped.

use crate::usage::Usage;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Limit of the submissions of one session in flight. One more waits for an earlier one to end. That one needs nothing
/// from the waiter, so the wait cannot deadlock.
pub const IN_FLIGHT_MAX: usize = 16;

/// Waits for a session's submissions and uploads; see [`super::Session::drainer`].
#[derive(Debug, Clone)]
pub struct Drainer {
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) usage: Arc<Usage>,
}

impl Drainer {
    /// Waits until all submissions of the session and all uploads that it pays for are done and charged. They end by
    /// themselves, so this ends too. Callers set a timeout anyway.
    pub async fn drain(&self) {
        let all = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
        // It only fails on a closed semaphore, and nothing closes this one.
        let _ = self.in_flight.acquire_many(all).await;
        self.usage.uploads.drain().await;
    }
}
