//! How much CPU time may go into prepared instances of a version that no request gets. Nobody pays for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// CPU time of instances that were lost, that failed, or that no request has got yet. With more of it, no more are
/// prepared.
const UNPAID_MAX: Duration = Duration::from_millis(400);
/// This part of the CPU time that requests pay for making their own instances is forgotten from the unpaid time. So the
/// reason why instances are lost may pass, and what nobody pays for stays a small part of what is paid for.
const FORGOTTEN_PART: u32 = 16;

/// The preparations of one loaded version: one at a time, and little that goes to waste.
#[derive(Debug, Default)]
pub(crate) struct PreparationLimit {
    in_progress: AtomicBool,
    unpaid_ns: AtomicU64,
}

/// A preparation. It ends when this is dropped.
pub(super) struct InProgress(Arc<PreparationLimit>);

impl PreparationLimit {
    /// Begins a preparation, if it is allowed.
    pub(super) fn begin(self: &Arc<Self>) -> Option<InProgress> {
        if self.in_progress.swap(true, Ordering::Acquire) {
            return None;
        }
        let in_progress = InProgress(Arc::clone(self));
        (self.unpaid_ns.load(Ordering::Relaxed) <= nanoseconds(UNPAID_MAX)).then_some(in_progress)
    }

    /// Records the CPU time of a preparation.
    pub(super) fn spent(&self, cpu: Duration) {
        self.unpaid_ns.fetch_add(nanoseconds(cpu), Ordering::Relaxed);
    }

    /// Records that a request got a prepared instance, and pays for it.
    pub(super) fn paid(&self, cpu: Duration) {
        let less = |unpaid: u64| Some(unpaid.saturating_sub(nanoseconds(cpu)));
        let _ = self.unpaid_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Records that a request made its own instance, and pays for it.
    pub(super) fn made_by_request(&self, cpu: Duration) {
        self.paid(cpu / FORGOTTEN_PART);
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.in_progress.store(false, Ordering::Release);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ONE: Duration = Duration::from_millis(1);

    #[test]
    fn one_at_a_time_and_as_many_as_are_used() {
        let limit = Arc::new(PreparationLimit::default());
        for _ in 0..10_000 {
            let in_progress = limit.begin().unwrap();
            assert!(limit.begin().is_none(), "two at once");
            limit.spent(ONE);
            drop(in_progress);
            limit.paid(ONE);
        }
        limit.paid(ONE);
        limit.spent(UNPAID_MAX);
        assert!(limit.begin().is_some(), "paid in advance");
    }

    #[test]
    fn little_goes_to_waste() {
        let limit = Arc::new(PreparationLimit::default());
        let wasted = |requests: u32| {
            let begins = |_: &u32| {
                limit.made_by_request(ONE);
                limit.begin().inspect(|_| limit.spent(ONE)).is_some()
            };
            (0..requests).filter(begins).count()
        };
        let at_first = wasted(1000);
        assert!((400..500).contains(&at_first), "{at_first}");
        // From here on one of sixteen.
        let later = wasted(1600);
        assert!((99..=101).contains(&later), "{later}");
    }
}
