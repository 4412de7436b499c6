//! Counters of a tenant: requests in flight and waiting, and use in the current day and month. They outlive the
//! registry's snapshots. Decisions take the limits and the time as arguments.
//!
//! Invariants: a counted request stops counting exactly when its guard is dropped. The use of a day or a month only
//! grows until the next one begins, even when the clock is set back.

use crate::quota::rate::Bucket;
use crate::time::{Day, day_of, month_of};
use jiff::Timestamp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a tenant has used in the current day and month (UTC).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeriodUsage {
    day: Day,
    month: i64,
    /// GPU time used in the day.
    pub gpu_ns: u64,
    /// Bytes of outbound HTTP in the day, both directions.
    pub egress_bytes: u64,
    /// Charges of the month so far.
    pub micro_units: u64,
}

impl PeriodUsage {
    /// Resets the counters if `day` is in a later day or month, and returns them. A clock that was set back changes
    /// nothing.
    pub fn at(&mut self, day: Day) -> &mut Self {
        if day > self.day {
            let month = month_of(day);
            if month > self.month {
                (self.month, self.micro_units) = (month, 0);
            }
            (self.day, self.gpu_ns, self.egress_bytes) = (day, 0, 0);
        }
        self
    }
}

/// The counters of one tenant; see the module.
#[derive(Debug, Default)]
pub struct TenantCounters {
    /// Rate of requests to the tenant's functions.
    pub rate: Bucket,
    /// Rate of changes through the control API.
    pub changes: Bucket,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    spent: Mutex<PeriodUsage>,
}

/// Counts one request, in flight or waiting, until the guard is dropped.
#[derive(Debug)]
pub struct CountGuard {
    account: Arc<TenantCounters>,
    waiting: bool,
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        let counter = if self.waiting { &self.account.waiting } else { &self.account.in_flight };
        counter.fetch_sub(1, Ordering::AcqRel);
    }
}

impl TenantCounters {
    /// Counts a request in flight, or returns the number in flight if that has reached `limit`.
    pub fn acquire(self: &Arc<Self>, limit: u64) -> Result<CountGuard, usize> {
        Self::count(self, false, limit)
    }

    /// Counts a request that waits for a permit, or returns the number that wait if that has reached `limit`.
    pub fn wait(self: &Arc<Self>, limit: u64) -> Result<CountGuard, usize> {
        Self::count(self, true, limit)
    }

    fn count(self: &Arc<Self>, waiting: bool, limit: u64) -> Result<CountGuard, usize> {
        let counter = if waiting { &self.waiting } else { &self.in_flight };
        let before = counter.fetch_add(1, Ordering::AcqRel);
        let counted = CountGuard { account: Arc::clone(self), waiting };
        if before as u64 >= limit { Err(before) } else { Ok(counted) }
    }

    /// Returns the number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Returns what was used in the day and month of `now`.
    pub fn spent(&self, now: Timestamp) -> PeriodUsage {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner).at(day_of(now))
    }

    /// Adds the use of a request, of kept memory, or of outbound HTTP.
    pub fn add(&self, now: Timestamp, gpu_ns: u64, egress_bytes: u64, micro_units: u64) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = spent.at(day_of(now));
        spent.gpu_ns = spent.gpu_ns.saturating_add(gpu_ns);
        spent.egress_bytes = spent.egress_bytes.saturating_add(egress_bytes);
        spent.micro_units = spent.micro_units.saturating_add(micro_units);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn days_and_months_begin_anew_and_a_clock_set_back_gives_nothing_back() {
        let account = TenantCounters::default();
        account.add(at("2026-11-30T23:59:59Z"), 5, 7, 11);
        assert_eq!(account.spent(at("2026-11-30T23:59:59.9Z")).gpu_ns, 5);
        account.add(at("2026-11-29T01:00:00Z"), 1, 1, 1);
        let spent = account.spent(at("2026-10-01T00:00:00Z"));
        assert_eq!((spent.gpu_ns, spent.egress_bytes, spent.micro_units), (6, 8, 12), "the clock was set back");
        let next = account.spent(at("2026-12-01T00:00:00Z"));
        assert_eq!((next.gpu_ns, next.egress_bytes, next.micro_units), (0, 0, 0));
        account.add(at("2026-12-01T10:00:00Z"), 1, 1, 100);
        assert_eq!(account.spent(at("2026-12-02T00:00:00Z")).micro_units, 100, "a new day of the same month");
        assert_eq!(month_of(day_of(at("2026-12-02T00:00:00Z"))), 2026 * 12 + 11);
    }

    #[test]
    fn a_counted_request_is_counted_until_it_is_dropped() {
        let account = Arc::new(TenantCounters::default());
        let first = account.acquire(1).unwrap();
        assert_eq!(account.acquire(1).unwrap_err(), 1);
        drop(first);
        assert_eq!(account.in_flight(), 0);
        assert!(account.acquire(1).is_ok());
    }
}
