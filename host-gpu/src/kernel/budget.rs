//! Loop budgets: how much the loops of one invocation may spend on a device before they are left.

use crate::harden::{BudgetUnit, HardeningReport};

/// What the loops of one invocation may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoopBudgets {
    /// Those it runs for itself.
    pub(crate) divergent: u32,
    /// Those that all invocations of a workgroup run together.
    pub(crate) uniform: u32,
}

/// Weighted operations that loops of one invocation may spend on a GPU: measured on an H100, no endless
/// kernel of the tests then takes 20 ms.
pub const WORK_MAX: u32 = 1 << 22;
/// Iterations that a software driver lets an invocation make before it ends its loops in silence, less a few.
pub const SOFTWARE_ITERATIONS_MAX: u32 = 65_000;
/// Invocations that a software driver runs in step: their iterations may add up, where each has its own.
const SOFTWARE_LANES: u32 = 8;

impl LoopBudgets {
    /// The budgets of a kernel on a device whose budgets count in `unit`.
    pub(crate) fn of(hardened: HardeningReport, unit: BudgetUnit) -> Self {
        match unit {
            BudgetUnit::Work => Self { divergent: WORK_MAX, uniform: WORK_MAX },
            BudgetUnit::Iterations => {
                // The driver's own count covers both kinds of loops, and those that are not counted here.
                let fixed = u32::try_from(hardened.iterations).unwrap_or(u32::MAX);
                let mut left = SOFTWARE_ITERATIONS_MAX.saturating_sub(fixed);
                if hardened.divergent && hardened.uniform {
                    left /= 2;
                }
                let divergent = if hardened.divergent_repeatedly { left / SOFTWARE_LANES } else { left };
                Self { divergent, uniform: left }
            }
        }
    }
}
