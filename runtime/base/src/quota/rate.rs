//! Rate limits by the generic cell rate algorithm (ITU-T I.371), whose state is one number. The decision is pure;
//! [`Bucket`] stores the number for all that share a rate.
//!
//! Invariant: in any span of `t` seconds, at most `burst + rate × t` requests pass, in whatever order the clock's
//! readings arrive.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A limit on requests per second, with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second in the long run.
    pub per_s: u64,
    /// Requests that may come at once after a quiet time.
    pub burst: u64,
}

impl Rate {
    /// Returns a rate whose burst is as many requests as pass in one second.
    pub fn per_s(per_s: u64) -> Self {
        Self { per_s, burst: per_s }
    }

    fn interval_ns(self) -> u64 {
        1_000_000_000 / self.per_s.max(1)
    }
}

/// A request that came earlier than its rate allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{whose} may send {} requests a second and {} at once", rate.per_s, rate.burst)]
pub struct RateExceeded {
    /// Who has the rate, for the message: `this key`, for example.
    pub whose: &'static str,
    /// The rate.
    pub rate: Rate,
    /// How long until the next request may come.
    pub wait: Duration,
}

/// The state of a rate after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// Requests that may still come at once.
    pub left: u64,
    /// How long until the whole burst is available again.
    pub full_in: Duration,
}

/// Decides whether a request may pass. `due` is the time at which the whole burst is available again, in nanoseconds of
/// any clock. Returns the next `due`, or how long to wait.
pub fn decide(due: u64, now: u64, rate: Rate) -> Result<(u64, RateState), Duration> {
    let interval = rate.interval_ns();
    let room = interval.saturating_mul(rate.burst.max(1));
    // `due` can be further ahead only if the rate was lower before. Then one request passes.
    let due = if due > now.saturating_add(room) { now.saturating_add(room - interval) } else { due };
    let next = due.max(now).saturating_add(interval);
    let ahead = next - now;
    if ahead > room {
        return Err(Duration::from_nanos(ahead - room));
    }
    let left = (room - ahead) / interval.max(1);
    Ok((next, RateState { left, full_in: Duration::from_nanos(ahead) }))
}

/// Stores the number of one rate. It needs no lock: when two requests collide, one is decided again.
#[derive(Debug, Default)]
pub struct Bucket {
    due: AtomicU64,
}

/// Returns the nanoseconds since the first call in this process.
fn since_start(now: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(|| now);
    u64::try_from(now.saturating_duration_since(start).as_nanos()).unwrap_or(u64::MAX)
}

impl Bucket {
    /// Counts a request against the rate, or returns how long to wait.
    pub fn take(&self, rate: Rate, now: Instant) -> Result<RateState, Duration> {
        let now = since_start(now);
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            let (next, rate_state) = decide(due, now, rate)?;
            match self.due.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(rate_state),
                Err(found) => due = found,
            }
        }
    }

    /// Returns how long until a request may come, without counting one.
    pub fn wait(&self, rate: Rate, now: Instant) -> Duration {
        decide(self.due.load(Ordering::Relaxed), since_start(now), rate).err().unwrap_or_default()
    }

    /// Returns whether the whole burst is available, as in a new bucket.
    pub fn is_full(&self, now: Instant) -> bool {
        self.due.load(Ordering::Relaxed) <= since_start(now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_then_one_for_each_interval() {
        let rate = Rate { per_s: 10, burst: 3 };
        let mut due = 0;
        let mut lefts = Vec::new();
        for _ in 0..3 {
            let (next, rate_state) = decide(due, 1_000, rate).unwrap();
            (due, _) = (next, lefts.push(rate_state.left));
        }
        assert_eq!(lefts, [2, 1, 0]);
        assert_eq!(decide(due, 1_000, rate), Err(Duration::from_millis(100)));
        assert!(decide(due, 100_001_000, rate).is_ok());
    }

    #[test]
    fn a_rate_that_was_raised_holds_at_once() {
        let (slow, fast) = (Rate { per_s: 1, burst: 3 }, Rate { per_s: 1_000_000, burst: 1_000_000 });
        let mut due = 0;
        while let Ok((next, _)) = decide(due, 0, slow) {
            due = next;
        }
        assert!(decide(due, 0, fast).is_ok());
    }

    proptest! {
        #[test]
        fn no_span_lets_more_through_than_burst_and_rate(
            gaps in proptest::collection::vec(0_u64..400_000_000, 1..200), per_s in 1_u64..50, burst in 1_u64..20,
        ) {
            let rate = Rate { per_s, burst };
            let (mut now, mut due, mut passed) = (0_u64, 0_u64, Vec::new());
            for gap in gaps {
                now += gap;
                if let Ok((next, _)) = decide(due, now, rate) {
                    due = next;
                    passed.push(now);
                }
            }
            for (index, from) in passed.iter().enumerate() {
                for (count, to) in passed.iter().skip(index).enumerate() {
                    let span = u128::from(to - from);
                    let most = u128::from(burst) + span * u128::from(per_s) / 1_000_000_000 + 1;
                    prop_assert!((count as u128) < most, "{count} within {span} ns");
                }
            }
        }
    }
}
