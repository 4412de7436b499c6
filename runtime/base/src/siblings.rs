//! Calls of one function of a tenant by another, its sibling: how it is named, how deep calls go, and how long each may
//! take. Pure.
//!
//! ```text
//!  client ─▶ a (depth 0) ─▶ http://b.gannet.internal/ (depth 1) ─▶ … ─▶ depth 8
//! ```

use std::time::{Duration, Instant};

/// The domain of the names under which a function calls its siblings. It is never resolved.
const DOMAIN: &str = "gannet.internal";
/// The greatest depth of a call. A request that is no call has depth 0.
pub const DEPTH_MAX: u8 = 8;
/// Instances of one worker that serve calls at the same time, beside those that serve other requests.
pub const CALLS_MAX: u32 = 128;
/// How many of them each depth leaves to the next, so that the deepest calls always find room.
const LEFT_TO_NEXT: u32 = 4;
/// A call ends this part of the time that its caller has left before its caller, at most [`RETURN_MAX`].
const RETURN_PART: u32 = 10;
const RETURN_MAX: Duration = Duration::from_millis(500);

/// Returns what a host name has before the domain of siblings: the name of a function, if it is well formed. `None` for
/// other hosts.
pub fn named(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let before = host.strip_suffix(DOMAIN)?;
    if before.is_empty() { Some(String::new()) } else { before.strip_suffix('.').map(str::to_owned) }
}

/// Returns how many calls may run in a worker for one more of this depth to begin.
pub fn calls_max(depth: u8) -> u32 {
    CALLS_MAX - LEFT_TO_NEXT * u32::from(DEPTH_MAX.saturating_sub(depth))
}

/// How long a call may take until the head of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallTime {
    /// When that time ends.
    pub until: Instant,
    /// Whether the caller's time ends it, not the function's own limit.
    pub is_callers: bool,
}

/// Returns the time of a call that begins at `now`, of a function whose own limit is `timeout`. `callers` is when the
/// caller's time ends. The call's ends a little earlier, so that the caller can still respond.
pub fn call_time(now: Instant, timeout: Duration, callers: Instant) -> CallTime {
    let left = callers.saturating_duration_since(now);
    let left = left - (left / RETURN_PART).min(RETURN_MAX);
    CallTime { until: now + timeout.min(left), is_callers: left < timeout }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_below_the_domain_are_siblings() {
        for (host, name) in [
            ("b.gannet.internal", "b"),
            ("B.Gannet.Internal.", "b"),
            ("a.b.gannet.internal", "a.b"),
            ("gannet.internal", ""),
            (".gannet.internal", ""),
        ] {
            assert_eq!(named(host).as_deref(), Some(name), "{host}");
        }
        for other in ["", "internal", "notgannet.internal", "b.gannet.internal.example.org", "gannet.internal:80"] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_call_ends_with_its_own_limit_or_just_before_its_caller() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let of = |timeout_ms, left_ms| call_time(now, Duration::from_millis(timeout_ms), after(left_ms));
        assert_eq!(of(1_000, 60_000), CallTime { until: after(1_000), is_callers: false });
        assert_eq!(of(60_000, 1_000), CallTime { until: after(900), is_callers: true });
        assert_eq!(of(60_000, 30_000), CallTime { until: after(29_500), is_callers: true });
        assert_eq!(of(1_000, 0), CallTime { until: now, is_callers: true });
        assert_eq!(call_time(after(5), Duration::from_secs(1), now).until, after(5), "the caller's time is over");
    }

    #[test]
    fn each_depth_leaves_room_for_the_next() {
        for depth in 1..DEPTH_MAX {
            assert!(calls_max(depth) > 0 && calls_max(depth) < calls_max(depth + 1), "{depth}");
        }
        assert_eq!(calls_max(DEPTH_MAX), CALLS_MAX);
    }
}
