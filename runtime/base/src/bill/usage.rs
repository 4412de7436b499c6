//! Sums of the ledger's lines, by tenant, day, function, version, GPU class and price. Pure.
//!
//! The store contains the sums of the settled lines. A [`Rollup`] contains the sums of the lines after those. Both
//! together are the usage.
//!
//! Invariants: each line counts once, however often and in whatever order lines are read. The sum of any rows equals
//! the sum of their lines, because each line is a whole number.

use crate::bill::LedgerLine;
use crate::bill::price::Price;
use crate::names::{FunctionName, RequestId, TenantName};
use crate::time::{Day, day_of};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// The key of a row of usage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// The tenant that pays.
    pub tenant: TenantName,
    /// The day (UTC) of the lines.
    pub day: Day,
    /// The function that was called, or that kept memory.
    pub function: FunctionName,
    /// Number of the function's version.
    pub version: u32,
    /// Class of the GPU; `none` for requests that got no worker.
    pub class: String,
    /// The prices that the lines were charged at.
    pub price: Price,
}

/// The sums in a row of usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Sums {
    /// Number of admitted requests.
    pub requests: u64,
    /// Number of admitted requests with an error.
    pub errors: u64,
    /// GPU time charged, in milliseconds.
    pub gpu_ms: u64,
    /// CPU time charged, in milliseconds.
    pub cpu_ms: u64,
    /// GPU time measured, including that of requests that are not charged.
    pub gpu_ns: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// Bytes of outbound requests and their responses.
    pub egress_bytes: u64,
    /// GPU memory kept without requests, in MiB times seconds.
    pub resident_mib_s: u64,
    /// Charge for GPU time.
    pub gpu_micro_units: u64,
    /// Charge for CPU time.
    pub cpu_micro_units: u64,
    /// Charge for GPU memory kept without requests.
    pub resident_micro_units: u64,
}

impl Sums {
    /// Returns the total charge.
    pub fn micro_units(&self) -> u64 {
        self.gpu_micro_units.saturating_add(self.cpu_micro_units).saturating_add(self.resident_micro_units)
    }

    /// Adds each of the other sums to its counterpart, saturating.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.gpu_ms, other.gpu_ms),
            (&mut self.cpu_ms, other.cpu_ms),
            (&mut self.gpu_ns, other.gpu_ns),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.egress_bytes, other.egress_bytes),
            (&mut self.resident_mib_s, other.resident_mib_s),
            (&mut self.gpu_micro_units, other.gpu_micro_units),
            (&mut self.cpu_micro_units, other.cpu_micro_units),
            (&mut self.resident_micro_units, other.resident_micro_units),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Returns the key of the row that a line counts in, and what the line adds to it.
fn row_of(line: &LedgerLine) -> (UsageKey, Sums) {
    match line {
        LedgerLine::Request(receipt) => (
            UsageKey {
                tenant: receipt.tenant.clone(),
                day: day_of(receipt.time),
                function: receipt.function.clone(),
                version: receipt.version,
                class: receipt.class.clone().unwrap_or_else(|| "none".into()),
                price: receipt.price,
            },
            Sums {
                requests: 1,
                errors: u64::from(receipt.error.is_some()),
                gpu_ms: receipt.gpu_ms,
                cpu_ms: receipt.cpu_ms,
                gpu_ns: receipt.gpu_ns,
                bytes_in: receipt.bytes_in,
                bytes_out: receipt.bytes_out,
                egress_bytes: receipt.egress_bytes,
                gpu_micro_units: receipt.gpu_micro_units,
                cpu_micro_units: receipt.cpu_micro_units,
                ..Sums::default()
            },
        ),
        LedgerLine::Resident(resident) => (
            UsageKey {
                tenant: resident.tenant.clone(),
                day: day_of(resident.time),
                function: resident.function.clone(),
                version: resident.version,
                class: resident.class.clone(),
                price: resident.price,
            },
            Sums {
                resident_mib_s: (resident.bytes >> 20).saturating_mul(resident.span_ms) / 1000,
                resident_micro_units: resident.micro_units,
                ..Sums::default()
            },
        ),
    }
}

/// Sums of the lines that are not settled yet.
#[derive(Debug, Default)]
pub struct Rollup {
    seen: HashSet<RequestId>,
    rows: BTreeMap<UsageKey, Sums>,
}

impl Rollup {
    /// Counts a line, unless it was counted before.
    pub fn count(&mut self, line: &LedgerLine) {
        if self.seen.insert(line.id()) {
            let (key, sums) = row_of(line);
            self.rows.entry(key).or_default().add(&sums);
        }
    }

    /// Returns the number of lines counted.
    pub fn lines(&self) -> usize {
        self.seen.len()
    }

    /// Returns all rows, ordered by key.
    pub fn rows(&self) -> impl Iterator<Item = (&UsageKey, &Sums)> {
        self.rows.iter()
    }

    /// Returns the rows of a tenant on these days.
    pub fn rows_of(&self, tenant: &TenantName, days: std::ops::RangeInclusive<Day>) -> Vec<(UsageKey, Sums)> {
        let of = self.rows.iter().filter(|(key, _)| key.tenant == *tenant && days.contains(&key.day));
        of.map(|(key, sums)| (key.clone(), *sums)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bill::{Receipt, ResidentMemory};
    use crate::refusal::Blame;
    use proptest::prelude::*;

    fn line(which: u8, gpu_ns: u64, guest_us: u64, second: i64, platform: bool) -> LedgerLine {
        let (tenant, function) =
            (TenantName::new(["a", "b"][usize::from(which % 2)]).unwrap(), FunctionName::new("f").unwrap());
        let price = Price { gpu_micro_units_per_s: 700, cpu_micro_units_per_s: 21, resident_micro_units_per_gib_s: 9 };
        let time = jiff::Timestamp::from_second(1_750_000_000 + second).unwrap();
        if which > 5 {
            let (bytes, span_ms, version) = (gpu_ns, 60_000, 1);
            let micro_units = price.of_memory(u128::from(bytes) * 60);
            let id = RequestId::new();
            return LedgerLine::Resident(ResidentMemory {
                id,
                tenant,
                function,
                version,
                time,
                span_ms,
                bytes,
                class: "x".into(),
                price,
                micro_units,
            });
        }
        let mut receipt = Receipt::open(RequestId::new(), tenant, function, u32::from(which), price);
        (receipt.gpu_ns, receipt.guest_us, receipt.time) = (gpu_ns, guest_us, time);
        receipt.fault = platform.then_some(Blame::Platform);
        receipt.charge();
        LedgerLine::Request(Box::new(receipt))
    }

    fn cost(line: &LedgerLine) -> u64 {
        match line {
            LedgerLine::Request(receipt) => receipt.micro_units(),
            LedgerLine::Resident(resident) => resident.micro_units,
        }
    }

    proptest! {
        #[test]
        fn the_invoice_is_the_sum_of_the_lines_in_any_order_and_however_often_they_are_read(
            lines in proptest::collection::vec(
                (0_u8..8, 0_u64..5_000_000_000, 0_u64..5_000_000, -200_000_i64..200_000, any::<bool>())
                    .prop_map(|(w, g, c, s, p)| line(w, g, c, s, p)), 0..60),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let (mut once, mut again) = (Rollup::default(), Rollup::default());
            lines.iter().for_each(|line| once.count(line));
            for index in order.iter().filter(|_| !lines.is_empty()) {
                again.count(index.get(&lines));
            }
            lines.iter().rev().for_each(|line| again.count(line));
            prop_assert_eq!(&once.rows, &again.rows);
            let invoice: u64 = once.rows().map(|(_, sums)| sums.micro_units()).sum();
            prop_assert_eq!(invoice, lines.iter().map(cost).sum::<u64>());
            let requests: u64 = once.rows().map(|(_, sums)| sums.requests).sum();
            prop_assert_eq!(requests, lines.iter().filter(|line| matches!(line, LedgerLine::Request(_))).count() as u64);
        }
    }
}
