//! How many instances of a version may be prepared that no request gets. Nobody pays for those.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Prepared instances that were evicted, that failed, or that no request has got yet. After so many of them no more are
/// prepared.
const UNUSED_MAX: u32 = 8;

/// The preparations of one loaded version: one at a time, and few that go to waste.
#[derive(Debug, Default)]
pub(crate) struct PreparationLimit {
    in_progress: AtomicBool,
    unused: AtomicU32,
}

impl PreparationLimit {
    /// Begins a preparation, if it is allowed.
    pub(super) fn begin(&self) -> bool {
        if self.unused.load(Ordering::Relaxed) >= UNUSED_MAX || self.in_progress.swap(true, Ordering::Acquire) {
            return false;
        }
        self.unused.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Ends a preparation, successful or not.
    pub(super) fn end(&self) {
        self.in_progress.store(false, Ordering::Release);
    }

    /// Records that a request got a prepared instance.
    pub(super) fn was_used(&self) {
        self.unused.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_few_that_nobody_uses() {
        let limit = PreparationLimit::default();
        for _ in 0..100 {
            assert!(limit.begin());
            assert!(!limit.begin(), "two at once");
            limit.end();
            limit.was_used();
        }
        for _ in 0..UNUSED_MAX {
            assert!(limit.begin());
            limit.end();
        }
        assert!(!limit.begin(), "more were lost than allowed");
        limit.was_used();
        assert!(limit.begin());
    }
}
