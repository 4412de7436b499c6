//! Counters of a tenant: requests in flight and waiting, and use in the current day and month. They outlive the
//! registry's snapshots. Decisions take the limits and the time as arguments.
//!
//! Invariants: a counted request stops counting exactly when its guard is dropped. What was used on a day counts on that
//! day and in its month, whatever the clock shows before or after: a clock that is wrong for a minute, ahead or back,
//! neither gives anything back nor stops the counting.

use crate::quota::rate::Bucket;
use crate::time::{Day, day_of, month_of, month_start};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Days that are counted for a tenant at most: a month, and some that a wrong clock made.
const DAYS_MAX: usize = 64;

/// What a tenant has used in a day, and has spent in its month (UTC).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeriodUsage {
    /// GPU time used in the day.
    pub gpu_ns: u64,
    /// Bytes of outbound HTTP in the day, both directions.
    pub egress_bytes: u64,
    /// Charges of the month.
    pub micro_units: u64,
}

/// What a tenant has used, by day.
#[derive(Debug, Default)]
struct UsageByDay(BTreeMap<Day, PeriodUsage>);

impl UsageByDay {
    fn add(&mut self, day: Day, more: PeriodUsage) {
        let usage = self.0.entry(day).or_default();
        usage.gpu_ns = usage.gpu_ns.saturating_add(more.gpu_ns);
        usage.egress_bytes = usage.egress_bytes.saturating_add(more.egress_bytes);
        usage.micro_units = usage.micro_units.saturating_add(more.micro_units);
        // Of too many, the one farthest from today goes: it is the oldest, or a clock that was wrong made it.
        if self.0.len() > DAYS_MAX {
            let (first, last) = (self.0.keys().next().copied(), self.0.keys().next_back().copied());
            let farthest = first.into_iter().chain(last).max_by_key(|other| other.abs_diff(day));
            farthest.map(|day| self.0.remove(&day));
        }
    }

    fn of(&self, day: Day) -> PeriodUsage {
        let mut usage = self.0.get(&day).copied().unwrap_or_default();
        let month = month_start(day)..month_start(day) + 31;
        let in_month = self.0.range(month).filter(|(other, _)| month_of(**other) == month_of(day));
        usage.micro_units = in_month.fold(0, |sum, (_, usage)| sum.saturating_add(usage.micro_units));
        usage
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
    used: Mutex<UsageByDay>,
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
        self.used.lock().unwrap_or_else(PoisonError::into_inner).of(day_of(now))
    }

    /// Adds the use of a request, of kept memory, or of outbound HTTP.
    pub fn add(&self, now: Timestamp, gpu_ns: u64, egress_bytes: u64, micro_units: u64) {
        let more = PeriodUsage { gpu_ns, egress_bytes, micro_units };
        self.used.lock().unwrap_or_else(PoisonError::into_inner).add(day_of(now), more);
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
    fn days_and_months_count_by_themselves_and_a_wrong_clock_changes_nothing() {
        let account = TenantCounters::default();
        account.add(at("2026-11-30T23:59:59Z"), 5, 7, 11);
        account.add(at("2026-11-29T01:00:00Z"), 1, 1, 1);
        let spent = account.spent(at("2026-11-30T23:59:59.9Z"));
        assert_eq!((spent.gpu_ns, spent.egress_bytes, spent.micro_units), (5, 7, 12));
        assert_eq!(account.spent(at("2026-11-29T00:00:00Z")).gpu_ns, 1);
        // The clock shows another year for a minute.
        account.add(at("2031-01-01T00:00:00Z"), 9, 9, 9);
        account.add(at("2019-01-01T00:00:00Z"), 9, 9, 9);
        assert_eq!(account.spent(at("2026-11-30T23:59:59.9Z")), spent);
        let next = account.spent(at("2026-12-01T00:00:00Z"));
        assert_eq!((next.gpu_ns, next.egress_bytes, next.micro_units), (0, 0, 0));
        account.add(at("2026-12-01T10:00:00Z"), 1, 1, 100);
        assert_eq!(account.spent(at("2026-12-02T00:00:00Z")).micro_units, 100, "a new day of the same month");
        assert_eq!(account.spent(at("2026-12-31T23:59:59Z")).micro_units, 100, "the last day of the same month");
        assert_eq!(month_of(day_of(at("2026-12-02T00:00:00Z"))), 2026 * 12 + 11);
    }

    #[test]
    fn the_days_that_are_counted_are_bounded_and_those_of_today_stay() {
        let account = TenantCounters::default();
        for year in 1970..2270 {
            account.add(at(&format!("{year}-06-01T00:00:00Z")), 1, 1, 1);
            account.add(at("2026-11-30T00:00:00Z"), 1, 1, 1);
        }
        assert_eq!(account.spent(at("2026-11-30T00:00:00Z")).gpu_ns, 300);
        assert!(account.used.lock().unwrap().0.len() <= DAYS_MAX);
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
