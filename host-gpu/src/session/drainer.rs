//! Waiting for what a session has submitted, also when the session is gone.

use crate::usage::Usage;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Submissions of one session in flight. One more waits for the oldest, which needs nothing from
/// the waiter, so the wait ends.
pub const IN_FLIGHT_MAX: usize = 16;

/// Waits for a session's submissions; see [`super::Session::drainer`].
#[derive(Debug, Clone)]
pub struct Drainer {
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) usage: Arc<Usage>,
}

impl Drainer {
    /// Waits until everything the session submitted, and each upload that it pays for, is done and charged. What is in flight
    /// ends by itself, so this does too; callers bound it all the same.
    pub async fn drain(&self) {
        let all = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
        // Closed semaphores do not happen: nobody closes it.
        let _ = self.in_flight.acquire_many(all).await;
        self.usage.uploads.drain().await;
    }
}
