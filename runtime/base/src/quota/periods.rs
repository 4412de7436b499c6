//! What a tenant has used by day, settled and by requests that still run, and the caps on it. Pure.

use crate::limits::TenantLimits;
use crate::time::{Day, month_of};
use std::collections::BTreeMap;

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
    /// CPU time of builds in the day, in nanoseconds.
    pub build_ns: u64,
}

/// What a tenant has used, by day.
#[derive(Debug, Default)]
pub(super) struct UsageByDay {
    days: BTreeMap<Day, DayUsage>,
    /// Counts how often a day has grown.
    grown: u64,
}

#[derive(Debug)]
struct DayUsage {
    usage: PeriodUsage,
    /// The month of the day. Finding it out costs more than the rest of a look.
    month: i64,
    /// When it last grew, as a number that counts up.
    grown: u64,
}

impl UsageByDay {
    pub(super) fn add(&mut self, day: Day, more: PeriodUsage) {
        self.grown += 1;
        let month = || DayUsage { usage: PeriodUsage::default(), month: month_of(day), grown: 0 };
        let DayUsage { usage, grown, .. } = self.days.entry(day).or_insert_with(month);
        *grown = self.grown;
        usage.gpu_ns = usage.gpu_ns.saturating_add(more.gpu_ns);
        usage.egress_bytes = usage.egress_bytes.saturating_add(more.egress_bytes);
        usage.micro_units = usage.micro_units.saturating_add(more.micro_units);
        usage.build_ns = usage.build_ns.saturating_add(more.build_ns);
        // Of too many, the one that has not grown for longest goes.
        if self.days.len() > DAYS_MAX {
            let quiet = self.days.iter().min_by_key(|(_, day)| day.grown).map(|(day, _)| *day);
            quiet.map(|day| self.days.remove(&day));
        }
    }

    pub(super) fn of(&self, day: Day) -> PeriodUsage {
        let known = self.days.get(&day);
        let (mut usage, month) =
            known.map_or_else(|| (PeriodUsage::default(), month_of(day)), |day| (day.usage, day.month));
        let in_month = self.days.values().filter(|day| day.month == month);
        usage.micro_units = in_month.fold(0, |sum, day| sum.saturating_add(day.usage.micro_units));
        usage
    }
}

/// What a tenant may use in a day and in a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// GPU time in a day, in nanoseconds.
    pub gpu_ns_per_day: u64,
    /// Charges in a month, in micro-units.
    pub micro_units_per_month: u64,
}

impl Caps {
    /// Returns the caps that a tenant's limits set.
    pub fn of(limits: &TenantLimits) -> Self {
        let gpu_ns_per_day = limits.gpu_ms_per_day.saturating_mul(1_000_000);
        Self { gpu_ns_per_day, micro_units_per_month: limits.spend_micro_units_per_month }
    }

    pub(super) fn reached(self, gpu_ns: u64, micro_units: u64) -> Option<ReachedCap> {
        if micro_units >= self.micro_units_per_month {
            Some(ReachedCap::Spend)
        } else {
            (gpu_ns >= self.gpu_ns_per_day).then_some(ReachedCap::GpuTime)
        }
    }
}

/// The cap that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReachedCap {
    /// The charges of the month.
    Spend,
    /// The GPU time of the day.
    GpuTime,
}

/// Settled use, and that of requests that still run. Under one lock, so that no use is counted twice or not at all while
/// it moves from one to the other.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) settled: UsageByDay,
    /// What running requests have used so far, by the day of their admission: they are settled on that day.
    pub(super) running: AmountByDay,
    /// For each running request the larger of its expected use and its use so far.
    pub(super) reserved: AmountByDay,
    pub(super) caps: Caps,
}

impl Default for Used {
    fn default() -> Self {
        let caps = Caps { gpu_ns_per_day: u64::MAX, micro_units_per_month: u64::MAX };
        Self { settled: UsageByDay::default(), running: AmountByDay::default(), reserved: AmountByDay::default(), caps }
    }
}

/// GPU time and charges of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// GPU time in nanoseconds.
    pub gpu_ns: u64,
    /// Charges in micro-units.
    pub micro_units: u64,
}

impl Amount {
    pub(super) fn max(self, other: Self) -> Self {
        Self { gpu_ns: self.gpu_ns.max(other.gpu_ns), micro_units: self.micro_units.max(other.micro_units) }
    }

    /// Replaces a part of this sum.
    fn replace(&mut self, before: Self, after: Self) {
        self.gpu_ns = self.gpu_ns.saturating_sub(before.gpu_ns).saturating_add(after.gpu_ns);
        self.micro_units = self.micro_units.saturating_sub(before.micro_units).saturating_add(after.micro_units);
    }
}

/// Amounts of requests that still run.
#[derive(Debug, Default)]
pub(super) struct AmountByDay(BTreeMap<Day, Amount>);

impl AmountByDay {
    /// Replaces a part of a day's sum.
    pub(super) fn replace(&mut self, day: Day, before: Amount, after: Amount) {
        let sum = self.0.entry(day).or_default();
        sum.replace(before, after);
        if *sum == Amount::default() {
            self.0.remove(&day);
        }
    }

    /// Adds the GPU time of a day and the charges of its month to what is settled.
    pub(super) fn add_to(&self, day: Day, settled: PeriodUsage) -> PeriodUsage {
        let gpu_ns = self.0.get(&day).map_or(0, |amount| amount.gpu_ns);
        let in_month = self.0.iter().filter(|(other, _)| **other == day || month_of(**other) == month_of(day));
        let micro_units = in_month.fold(0_u64, |sum, (_, amount)| sum.saturating_add(amount.micro_units));
        PeriodUsage {
            gpu_ns: settled.gpu_ns.saturating_add(gpu_ns),
            micro_units: settled.micro_units.saturating_add(micro_units),
            ..settled
        }
    }
}

impl Used {
    /// Returns what is used and reserved, if that reaches a cap.
    pub(super) fn reserved_up(&self, day: Day) -> Option<PeriodUsage> {
        let sum = self.reserved.add_to(day, self.settled.of(day));
        self.caps.reached(sum.gpu_ns, sum.micro_units).map(|_| sum)
    }

    /// Returns the cap that is reached by what was used for sure.
    pub(super) fn reached(&self, day: Day) -> Option<ReachedCap> {
        let sum = self.running.add_to(day, self.settled.of(day));
        self.caps.reached(sum.gpu_ns, sum.micro_units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_that_are_counted_are_bounded_and_those_of_today_stay() {
        let mut used = UsageByDay::default();
        let one = PeriodUsage { gpu_ns: 1, egress_bytes: 1, micro_units: 1, build_ns: 1 };
        let today = 20_500;
        for day in today - 99..=today {
            used.add(day, one);
        }
        // A clock that is wrong for some minutes.
        for year in 0..30 {
            used.add(year * 365, one);
        }
        assert_eq!(used.of(today).gpu_ns, 1);
        let month = used.of(today).micro_units;
        used.add(today, one);
        assert_eq!((used.of(today).gpu_ns, used.of(today).micro_units), (2, month + 1));
        assert!(used.days.len() <= DAYS_MAX);
    }
}
