//! Counters of a tenant: requests in flight and waiting, and use in the current day and month, settled and by requests
//! that still run. They outlive the
//! registry's snapshots. Decisions take the limits and the time as arguments.
//!
//! Invariants: a request is counted until its guard is dropped. Use is counted on the day and in the month in which the
//! request was admitted. A clock that is wrong for a minute does not change what was counted before.

use crate::bill::price::Price;
use crate::quota::periods::Used;
pub use crate::quota::periods::{Amount, Caps, PeriodUsage, ReachedCap};
use crate::quota::rate::Bucket;
use crate::time::{Day, day_of};
use jiff::Timestamp;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The counters of one tenant; see the module.
#[derive(Debug, Default)]
pub struct TenantCounters {
    /// Rate of requests to the tenant's functions.
    pub rate: Bucket,
    /// Rate of changes through the control API.
    pub changes: Bucket,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    used: Mutex<Used>,
    /// Wakes running requests when a cap is reached.
    over: Notify,
}

/// What one running request has used, and is expected to use. Counts until it is settled or dropped.
#[derive(Debug)]
pub struct Reservation {
    account: Arc<TenantCounters>,
    /// Changed under the account's lock.
    part: Mutex<ReservedPart>,
    /// The day of its admission.
    day: Day,
}

#[derive(Debug, Default)]
struct ReservedPart {
    expected: Amount,
    used: Amount,
    /// GPU and CPU time so far in the present worker, and before that in workers that have died, in nanoseconds.
    times: WorkTimes,
    before: WorkTimes,
    price: Price,
    is_settled: bool,
}

/// GPU time, and CPU time of the guest, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkTimes {
    /// GPU time.
    pub gpu_ns: u64,
    /// CPU time of the guest.
    pub guest_ns: u64,
}

impl Reservation {
    /// Sets the price of the work.
    pub fn set_price(&self, price: Price) {
        self.part.lock().unwrap_or_else(PoisonError::into_inner).price = price;
    }

    /// Records what the request has used so far in its worker. If that reaches a cap, the tenant's running requests are
    /// woken.
    pub fn progress(&self, times: WorkTimes) {
        let mut used = self.account.lock();
        let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
        if part.is_settled {
            return;
        }
        part.times.gpu_ns = part.times.gpu_ns.max(times.gpu_ns);
        part.times.guest_ns = part.times.guest_ns.max(times.guest_ns);
        let gpu_ns = part.before.gpu_ns.saturating_add(part.times.gpu_ns);
        let guest_ns = part.before.guest_ns.saturating_add(part.times.guest_ns);
        let cost = part.price.of_work(gpu_ns, guest_ns / 1000);
        let micro_units = cost.gpu_micro_units.saturating_add(cost.cpu_micro_units);
        let now_used = part.used.max(Amount { gpu_ns, micro_units });
        used.running.replace(self.day, part.used, now_used);
        used.reserved.replace(self.day, part.used.max(part.expected), now_used.max(part.expected));
        part.used = now_used;
        if used.reached(self.day).is_some() {
            self.account.over.notify_waiters();
        }
    }

    /// Returns what the request has used in its present worker at the last progress, and begins anew: another worker may
    /// follow.
    pub fn take_times(&self) -> WorkTimes {
        let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
        let times = std::mem::take(&mut part.times);
        part.before.gpu_ns = part.before.gpu_ns.saturating_add(times.gpu_ns);
        part.before.guest_ns = part.before.guest_ns.saturating_add(times.guest_ns);
        times
    }

    /// Waits until a cap of the tenant is reached, on the day of the request, and returns it.
    pub async fn over(&self) -> ReachedCap {
        loop {
            let notified = self.account.over.notified();
            tokio::pin!(notified);
            // From here on it hears of it, so nothing is missed after the look.
            notified.as_mut().enable();
            if let Some(cap) = self.reached() {
                return cap;
            }
            notified.await;
        }
    }

    /// Returns the cap of the tenant that is reached, on the day of the request.
    pub fn reached(&self) -> Option<ReachedCap> {
        self.account.lock().reached(self.day)
    }

    /// Replaces the reservation by what the request has used in the end.
    pub fn settle(&self, now: Timestamp, amount: Amount) {
        let mut used = self.account.lock();
        self.release(&mut used);
        let Amount { gpu_ns, micro_units } = amount;
        used.settled.add(day_of(now), PeriodUsage { gpu_ns, micro_units, ..PeriodUsage::default() });
        if used.reached(self.day).is_some() {
            self.account.over.notify_waiters();
        }
    }

    fn release(&self, used: &mut Used) {
        let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut part.is_settled, true) {
            used.running.replace(self.day, part.used, Amount::default());
            used.reserved.replace(self.day, part.used.max(part.expected), Amount::default());
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(&mut self.account.lock());
    }
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

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was used in the day and month of `now`, without requests that still run.
    pub fn spent(&self, now: Timestamp) -> PeriodUsage {
        self.lock().settled.of(day_of(now))
    }

    /// Sets what may be used.
    pub fn set_caps(&self, caps: Caps) {
        let mut used = self.lock();
        used.caps = caps;
        if used.reached(day_of(Timestamp::now())).is_some() {
            self.over.notify_waiters();
        }
    }

    /// Reserves what a request is expected to use. Returns what is used and reserved instead, if that reaches a cap.
    pub fn reserve(self: &Arc<Self>, now: Timestamp, expected: Amount) -> Result<Reservation, PeriodUsage> {
        let (mut used, day) = (self.lock(), day_of(now));
        if let Some(sum) = used.reserved_up(day) {
            return Err(sum);
        }
        used.reserved.replace(day, Amount::default(), expected);
        drop(used);
        let part = Mutex::new(ReservedPart { expected, ..ReservedPart::default() });
        Ok(Reservation { account: Arc::clone(self), part, day })
    }

    /// Whether a request would be refused now, because what is used and reserved reaches a cap.
    pub fn is_used_up(&self, now: Timestamp) -> bool {
        self.lock().reserved_up(day_of(now)).is_some()
    }

    /// Adds the use of a request, of kept memory, or of outbound HTTP.
    pub fn add(&self, now: Timestamp, gpu_ns: u64, egress_bytes: u64, micro_units: u64) {
        let more = PeriodUsage { gpu_ns, egress_bytes, micro_units, build_ns: 0 };
        let mut used = self.lock();
        used.settled.add(day_of(now), more);
        if used.reached(day_of(now)).is_some() {
            self.over.notify_waiters();
        }
    }
}

impl TenantCounters {
    /// Adds the CPU time of a build.
    pub fn add_build(&self, now: Timestamp, cpu_ns: u64) {
        self.lock().settled.add(day_of(now), PeriodUsage { build_ns: cpu_ns, ..PeriodUsage::default() });
    }
}

/// What the latest requests of a version used: an average in which later ones count more. It is what the next one is
/// expected to use.
#[derive(Debug, Default)]
pub struct UsualAmount {
    gpu_ns: AtomicU64,
    micro_units: AtomicU64,
}

impl UsualAmount {
    /// Returns the average.
    pub fn get(&self) -> Amount {
        Amount { gpu_ns: self.gpu_ns.load(Ordering::Relaxed), micro_units: self.micro_units.load(Ordering::Relaxed) }
    }

    /// Counts a request. Requests that end at the same time may overwrite each other's count, which changes little.
    pub fn count(&self, amount: Amount) {
        for (average, new) in [(&self.gpu_ns, amount.gpu_ns), (&self.micro_units, amount.micro_units)] {
            let before = average.load(Ordering::Relaxed);
            let after = if before == 0 { new } else { before - before / 8 + new / 8 };
            average.store(after, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::time::month_of;

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
    fn what_runs_is_reserved_and_those_that_pass_a_cap_are_woken() {
        let (account, now) = (Arc::new(TenantCounters::default()), at("2026-11-30T12:00:00Z"));
        account.set_caps(Caps { gpu_ns_per_day: 100, micro_units_per_month: u64::MAX });
        let expected = Amount { gpu_ns: 40, micro_units: 0 };
        let held: Vec<_> = (0..3).map(|_| account.reserve(now, expected).unwrap()).collect();
        assert!(account.is_used_up(now) && !account.is_used_up(at("2026-12-01T00:00:00Z")));
        assert_eq!(account.reserve(now, expected).unwrap_err().gpu_ns, 120, "three are expected to use it up");
        assert!(account.lock().reached(day_of(now)).is_none(), "but they have not yet");
        let times = |gpu_ns| WorkTimes { gpu_ns, guest_ns: 0 };
        held[0].progress(times(90));
        assert!(account.lock().reached(day_of(now)).is_none());
        held[1].progress(times(10));
        assert_eq!(account.lock().reached(day_of(now)), Some(ReachedCap::GpuTime), "together");
        held[1].progress(times(5));
        assert_eq!(account.lock().reached(day_of(now)), Some(ReachedCap::GpuTime), "progress goes only up");
        // They are settled on this day, so they do not count on the next one.
        assert_eq!(account.lock().reached(day_of(at("2026-12-01T00:00:00Z"))), None);
        // Two use less in the end.
        held[0].settle(now, Amount { gpu_ns: 30, micro_units: 0 });
        held[0].progress(times(1_000));
        drop(held);
        // After a worker that died, the times of the next one come on top.
        let again = account.reserve(now, Amount::default()).unwrap();
        again.progress(times(40));
        assert_eq!((again.take_times(), again.take_times()), (times(40), times(0)));
        again.progress(times(30));
        assert_eq!(account.lock().reached(day_of(now)), Some(ReachedCap::GpuTime), "30 settled, 40 and 30");
        drop(again);
        assert_eq!(account.spent(now).gpu_ns, 30);
        assert!(account.reserve(now, expected).is_ok());
        account.add(now, 70, 0, 0);
        assert!(account.lock().reached(day_of(now)).is_some() && account.reserve(now, Amount::default()).is_err());
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
