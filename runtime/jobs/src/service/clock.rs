//! The time by which jobs are judged. It goes evenly while the server runs: a clock that is set during that neither ends
//! jobs nor keeps them waiting.

use crate::job::Millis;
use std::time::{Duration, Instant};

/// The time of day at the start, and what has passed since.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    began_ms: Millis,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), began_ms: jiff::Timestamp::now().as_millisecond() }
    }

    /// A clock that was put forward, or back, before the server started.
    #[cfg(test)]
    pub(crate) fn put_forward(by: Millis) -> Self {
        let clock = Self::new();
        Self { began_ms: clock.began_ms.saturating_add(by), ..clock }
    }

    pub(crate) fn now(&self) -> Millis {
        self.began_ms.saturating_add_unsigned(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Returns how long it is until a time.
    pub(crate) fn until(&self, at: Millis) -> Duration {
        Duration::from_millis(u64::try_from(at.saturating_sub(self.now())).unwrap_or(0))
    }
}
