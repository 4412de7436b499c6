//! What work costs, in integers. Pure.
//!
//! ```text
//!  gpu_ms = ⌈GPU time⌉   cpu_ms = ⌈CPU time⌉   in whole milliseconds
//!  cost   = ⌈gpu_ms × gpu price ÷ 1000⌉ + ⌈cpu_ms × cpu price ÷ 1000⌉   in micro-units
//! ```
//!
//! A platform fault costs nothing. Each line of the ledger is a whole number of micro-units, so that lines add up to the
//! invoice however they are grouped.

use serde::{Deserialize, Serialize};

/// Prices in micro-units (millionths of the currency), frozen on each line of the ledger.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct Price {
    /// A second of GPU work.
    pub gpu_micro_units_per_s: u64,
    /// A second of the guest's CPU time.
    pub cpu_micro_units_per_s: u64,
    /// A GiB of GPU memory kept for a second.
    pub resident_micro_units_per_gib_s: u64,
}

/// What a request costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// GPU time that is charged.
    pub gpu_ms: u64,
    /// CPU time that is charged.
    pub cpu_ms: u64,
    /// For the GPU.
    pub gpu_micro_units: u64,
    /// For the CPU.
    pub cpu_micro_units: u64,
}

fn charge(milliseconds: u64, per_s: u64) -> u64 {
    let micro = (u128::from(milliseconds) * u128::from(per_s)).div_ceil(1000);
    u64::try_from(micro).unwrap_or(u64::MAX)
}

impl Price {
    /// What so much work costs.
    pub fn of_work(self, gpu_ns: u64, cpu_us: u64) -> Cost {
        let (gpu_ms, cpu_ms) = (gpu_ns.div_ceil(1_000_000), cpu_us.div_ceil(1000));
        Cost {
            gpu_ms,
            cpu_ms,
            gpu_micro_units: charge(gpu_ms, self.gpu_micro_units_per_s),
            cpu_micro_units: charge(cpu_ms, self.cpu_micro_units_per_s),
        }
    }

    /// What it costs to keep so many bytes for a second, times the seconds.
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
