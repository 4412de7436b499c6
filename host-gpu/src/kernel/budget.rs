//! Loop budgets: how much the loops of one invocation may spend on a device before they are ended.

use crate::harden::{BudgetUnit, HardeningReport};

/// The budgets of one invocation, in the device's [`BudgetUnit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoopBudgets {
    /// Budget of the loops that the invocation runs by itself.
    pub(crate) divergent: u32,
    /// Budget of the loops that all invocations of a workgroup run together.
    pub(crate) uniform: u32,
}

/// Default of a request's limit of work on a GPU, in weighted operations. With it, no endless kernel of the tests takes
/// 35 ms on an H100 (measured).
pub const LOOP_WORK: u32 = 1 << 22;
/// Iterations of an invocation's loops on a software driver, at most. It is a little less than the number (65,535)
/// after which the driver silently ends loops.
pub const SOFTWARE_ITERATIONS_MAX: u32 = 65_000;
/// Invocations that a software driver runs in step. Their iterations may add up, if each makes its own.
const SOFTWARE_LANES: u32 = 8;

impl LoopBudgets {
    /// The budgets of a kernel on a device whose budgets count in `unit`. `loop_work` is the request's limit of work.
    pub(crate) fn of(report: &HardeningReport, unit: BudgetUnit, loop_work: u32) -> Self {
        match unit {
            BudgetUnit::Work => Self { divergent: loop_work, uniform: loop_work },
            BudgetUnit::Iterations => {
                // The driver counts the iterations of both kinds of loops, and of loops that we do not count.
                let fixed = u32::try_from(report.iterations).unwrap_or(u32::MAX);
                let mut left = SOFTWARE_ITERATIONS_MAX.saturating_sub(fixed);
                if report.divergent && report.uniform {
                    left /= 2;
                }
                let divergent = if report.divergent_repeatedly { left / SOFTWARE_LANES } else { left };
                Self { divergent, uniform: left }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_chooses_its_work_on_a_gpu_and_the_driver_its_iterations() {
        let report = HardeningReport { divergent: true, ..HardeningReport::default() };
        assert_eq!(LoopBudgets::of(&report, BudgetUnit::Work, 7).divergent, 7);
        let software = LoopBudgets::of(&report, BudgetUnit::Iterations, 7);
        assert_eq!(software, LoopBudgets { divergent: SOFTWARE_ITERATIONS_MAX, uniform: SOFTWARE_ITERATIONS_MAX });
    }
}
