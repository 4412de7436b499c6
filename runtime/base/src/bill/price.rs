//! The price of work, in integers. Pure.
//!
//! ```text
//!  gpu_ms = ⌈GPU time⌉   cpu_ms = ⌈CPU time⌉   in whole milliseconds
//!  cost   = ⌈gpu_ms × gpu price ÷ 1000⌉ + ⌈cpu_ms × cpu price ÷ 1000⌉   in micro-units
//! ```
//!
//! A request that failed by the platform's fault costs nothing. Each line of the ledger is a whole number of
//! micro-units, so that the lines add up to the invoice, however they are grouped.

use serde::{Deserialize, Serialize};

/// Prices in micro-units (millionths of the currency). Each line of the ledger keeps the prices that it was charged at.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct Price {
    /// Price of one second of GPU time.
    pub gpu_micro_units_per_s: u64,
    /// Price of one second of the guest's CPU time.
    pub cpu_micro_units_per_s: u64,
    /// Price of one GiB of GPU memory, kept for one second without requests.
    pub resident_micro_units_per_gib_s: u64,
}

/// The cost of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// GPU time charged, in milliseconds, rounded up.
    pub gpu_ms: u64,
    /// CPU time charged, in milliseconds, rounded up.
    pub cpu_ms: u64,
    /// Charge for GPU time.
    pub gpu_micro_units: u64,
    /// Charge for CPU time.
    pub cpu_micro_units: u64,
}

fn charge(milliseconds: u64, per_s: u64) -> u64 {
    let micro = (u128::from(milliseconds) * u128::from(per_s)).div_ceil(1000);
    u64::try_from(micro).unwrap_or(u64::MAX)
}

impl Price {
    /// Returns the cost of this much GPU and CPU time.
    pub fn of_work(self, gpu_ns: u64, cpu_us: u64) -> Cost {
        let (gpu_ms, cpu_ms) = (gpu_ns.div_ceil(1_000_000), cpu_us.div_ceil(1000));
        Cost {
            gpu_ms,
            cpu_ms,
            gpu_micro_units: charge(gpu_ms, self.gpu_micro_units_per_s),
            cpu_micro_units: charge(cpu_ms, self.cpu_micro_units_per_s),
        }
    }

    /// Returns the charge in micro-units for kept GPU memory. `byte_seconds` is its size in bytes times the seconds.
    pub fn of_memory(self, byte_seconds: u128) -> u64 {
        let micro = byte_seconds.saturating_mul(u128::from(self.resident_micro_units_per_gib_s)).div_ceil(1 << 30);
        u64::try_from(micro).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_charged_by_the_started_millisecond_and_idleness_is_not() {
        let price = Price { gpu_micro_units_per_s: 700, cpu_micro_units_per_s: 20, resident_micro_units_per_gib_s: 9 };
        assert_eq!(price.of_work(0, 0), Cost::default());
        let least = price.of_work(1, 1);
        assert_eq!((least.gpu_ms, least.cpu_ms, least.gpu_micro_units, least.cpu_micro_units), (1, 1, 1, 1));
        let more = price.of_work(2_000_000_000, 1_000_001);
        assert_eq!((more.gpu_ms, more.cpu_ms, more.gpu_micro_units, more.cpu_micro_units), (2000, 1001, 1400, 21));
        assert_eq!(price.of_memory(60 << 30), 540);
        assert_eq!(Price { gpu_micro_units_per_s: u64::MAX, ..price }.of_work(u64::MAX, 0).gpu_micro_units, u64::MAX);
    }
}
