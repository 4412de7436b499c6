//! What follows a try to deliver.
//!
//! The delays before further tries grow: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, then a day. Each is drawn anew between a
//! tenth of that and all of it, so that receivers which come back are not met by all senders at once, and so that there
//! are at most [`TRIES_MAX`]. The last try begins at most three days after the job has ended.

use super::record::{DeadLetter, Pending};
use super::sender::{Answer, SendError};
use crate::job::Millis;
use jiff::fmt::rfc2822::DateTimeParser;

/// The delays before the second to the last try of the first day, in seconds.
const DELAYS_S: [i64; 6] = [5, 300, 1_800, 7_200, 18_000, 36_000];
const DAY_MS: Millis = 24 * 3_600_000;
/// No try begins later than this after the job has ended.
const GIVE_UP_MS: Millis = 3 * DAY_MS;
/// The most that `Retry-After` is honoured.
const RETRY_AFTER_MAX_MS: Millis = DAY_MS;
/// Until a try that was not made is made.
const NOT_TRIED_MS: Millis = 60_000;
/// The most tries, if each delay is the shortest: the seven of the first day, and one each tenth of a day.
pub const TRIES_MAX: u32 = 37;
/// Characters of a reason that are kept.
const REASON_CHARACTERS_MAX: usize = 300;

/// How a try ended, as far as it matters for what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// The receiver has it.
    Delivered,
    /// It has not. It wants the next try not before this many milliseconds have passed.
    Failed(String, Millis),
    /// It will never take it, or must not be asked.
    Refused(String),
    /// The try was not made.
    NotTried(String),
}

/// What follows a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Done,
    /// Another try, at its `next_at`.
    Again(Pending),
    /// It is given up.
    Dead(DeadLetter),
}

impl Tried {
    /// Reads what a receiver answered. Any 2xx is success; 410 means that it is gone for ever; redirects are not followed.
    pub fn of(sent: Result<Answer, SendError>, now: Millis) -> Self {
        match sent {
            Ok(Answer { status: 200..300, .. }) => Self::Delivered,
            Ok(Answer { status: 410, .. }) => Self::Refused("the receiver answered with status 410".into()),
            Ok(Answer { status, retry_after }) => {
                let wait = retry_after.and_then(|text| retry_after_ms(&text, now)).unwrap_or(0);
                let what = if (300..400).contains(&status) { "; redirects are not followed" } else { "" };
                Self::Failed(format!("the receiver answered with status {status}{what}"), wait)
            }
            Err(SendError::Failed(why)) => Self::Failed(why, 0),
            Err(SendError::Refused(why)) => Self::Refused(why),
            Err(SendError::NotTried(why)) => Self::NotTried(why),
        }
    }
}

/// Reads `Retry-After`: seconds, or a date as HTTP writes it (RFC 9110, 10.2.3). Returns milliseconds, at most a day.
fn retry_after_ms(text: &str, now: Millis) -> Option<Millis> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(1_000)
    } else {
        let at = DateTimeParser::new().parse_timestamp(text).ok()?;
        at.as_millisecond().saturating_sub(now)
    };
    Some(wait.clamp(0, RETRY_AFTER_MAX_MS))
}

/// Returns the delay after a number of failed tries. `chance` is any number, from a good source.
fn delay_ms(failed: u32, first_ms: Millis, chance: u64) -> Millis {
    let index = usize::try_from(failed.saturating_sub(1)).unwrap_or(usize::MAX);
    let full = match DELAYS_S.get(index) {
        _ if index == 0 => first_ms,
        Some(seconds) => seconds * 1_000,
        None => DAY_MS,
    };
    let least = full / 10;
    let span = u64::try_from(full - least).unwrap_or(0).saturating_add(1);
    least.saturating_add_unsigned(chance % span)
}

/// Decides what follows a try of a delivery. `first_ms` is the delay before the second try.
pub fn after(pending: Pending, tried: Tried, first_ms: Millis, chance: u64, now: Millis) -> Next {
    let mut pending = pending;
    let (why, next_at) = match tried {
        Tried::Delivered => return Next::Done,
        Tried::Refused(why) => {
            pending.tries = pending.tries.saturating_add(1);
            (why, None)
        }
        Tried::Failed(why, wait) => {
            pending.tries = pending.tries.saturating_add(1);
            (why, Some(now.saturating_add(delay_ms(pending.tries, first_ms, chance).max(wait))))
        }
        Tried::NotTried(why) => (why, Some(now.saturating_add(NOT_TRIED_MS))),
    };
    pending.last_error = Some(why.chars().take(REASON_CHARACTERS_MAX).collect());
    let last = pending.since.saturating_add(GIVE_UP_MS);
    match next_at.filter(|at| *at <= last && pending.tries < TRIES_MAX) {
        Some(at) => {
            pending.next_at = at;
            Next::Again(pending)
        }
        None => Next::Dead(DeadLetter { pending, died: now }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::names::{FunctionName, TenantName};
    use proptest::prelude::*;

    fn pending(since: Millis) -> Pending {
        Pending {
            tenant: TenantName::new("acme").unwrap(),
            function: FunctionName::new("blur").unwrap(),
            url: "https://example.org/".into(),
            since,
            next_at: since,
            tries: 0,
            retried: 0,
            is_of_batch: false,
            last_error: None,
        }
    }

    fn answer(status: u16, retry_after: Option<&str>) -> Result<Answer, SendError> {
        Ok(Answer { status, retry_after: retry_after.map(Into::into) })
    }

    #[test]
    fn only_2xx_is_success_and_only_410_and_what_is_refused_is_final() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(Tried::of(answer(status, None), 0), Tried::Delivered);
        }
        for status in [100, 199, 301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 503] {
            assert!(matches!(Tried::of(answer(status, None), 0), Tried::Failed(_, 0)), "{status}");
        }
        for refused in [answer(410, Some("5")), Err(SendError::Refused("private".into()))] {
            let Next::Dead(dead) = after(pending(7), Tried::of(refused, 0), 5_000, 0, 9) else { panic!() };
            assert_eq!((dead.died, dead.pending.tries), (9, 1));
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_has_a_limit() {
        // RFC 9110's own example of a date: 784111777 s after 1970.
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let now = 784_111_777_000 - 90_000;
        for (text, wait) in [
            ("120", Some(120_000)),
            (" 0 ", Some(0)),
            (date, Some(90_000)),
            ("86401", Some(DAY_MS)),
            ("99999999999999999999999", Some(DAY_MS)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after_ms(text, now), wait, "{text:?}");
        }
        assert_eq!(retry_after_ms(date, now + 100_000), Some(0), "a date that has passed");
        let Next::Again(again) = after(pending(0), Tried::of(answer(503, Some("3600")), 0), 5_000, 0, 0) else {
            panic!()
        };
        assert_eq!(again.next_at, 3_600_000);
        // It never makes the next try earlier.
        let Next::Again(again) = after(pending(0), Tried::of(answer(503, Some("0")), 0), 5_000, u64::MAX, 0) else {
            panic!()
        };
        assert!(again.next_at >= 500);
    }

    #[test]
    fn a_try_that_was_not_made_does_not_count_but_is_not_repeated_for_ever() {
        let Next::Again(again) = after(pending(0), Tried::NotTried("quota".into()), 5_000, 0, 0) else { panic!() };
        assert_eq!((again.tries, again.next_at), (0, NOT_TRIED_MS));
        assert!(matches!(after(again, Tried::NotTried("quota".into()), 5_000, 0, GIVE_UP_MS), Next::Dead(_)));
    }

    proptest! {
        #[test]
        fn a_receiver_that_never_answers_is_tried_a_bounded_number_of_times_over_days(
            chances in proptest::collection::vec(any::<u64>(), 64),
            wait in 0i64..DAY_MS,
            took in 0i64..30_000,
        ) {
            let (mut now, mut delivery, mut tries) = (1_000_000, pending(1_000_000), 0);
            for chance in chances {
                now += took;
                tries += 1;
                let wait = if chance % 3 == 0 { wait } else { 0 };
                match after(delivery.clone(), Tried::Failed("x".repeat(1_000), wait), 5_000, chance, now) {
                    Next::Again(again) => {
                        let index = usize::try_from(again.tries).unwrap() - 1;
                        let full = DELAYS_S.get(index).map_or(DAY_MS, |seconds| seconds * 1_000);
                        prop_assert!(again.next_at >= now + (full / 10).max(wait));
                        prop_assert!(again.next_at <= now + full.max(wait));
                        prop_assert!(again.next_at <= again.since + GIVE_UP_MS);
                        prop_assert_eq!(again.tries, tries);
                        now = again.next_at;
                        delivery = again;
                    }
                    Next::Dead(dead) => {
                        prop_assert!(dead.died >= dead.pending.since + 2 * DAY_MS);
                        prop_assert!(dead.pending.tries == tries && tries <= TRIES_MAX);
                        prop_assert_eq!(dead.pending.last_error.unwrap().len(), REASON_CHARACTERS_MAX);
                        return Ok(());
                    }
                    Next::Done => prop_assert!(false),
                }
            }
            prop_assert!(false, "it never ended");
        }

        #[test]
        fn any_retry_after_is_read_or_ignored(text in ".{0,40}", now in 0i64..4_000_000_000_000) {
            if let Some(wait) = retry_after_ms(&text, now) {
                prop_assert!((0..=RETRY_AFTER_MAX_MS).contains(&wait));
            }
        }
    }
}
