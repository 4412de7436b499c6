//! What a device can do, as far as it decides whether a kernel is accepted.

use crate::harden::BudgetUnit;

/// What a device allows a kernel to use.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// `enable f16;`
    pub f16: bool,
    /// `enable subgroups;`
    pub subgroups: bool,
    /// Bytes of workgroup memory; drivers do not check it.
    pub workgroup_memory_max: u32,
    /// Invocations in one workgroup.
    pub workgroup_invocations_max: u32,
    /// What its loop budgets count.
    pub unit: BudgetUnit,
}
