//! The features and limits of a device that decide whether a kernel is accepted.

use crate::harden::BudgetUnit;

/// What a device allows a kernel to use.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// Whether WGSL may `enable f16;`.
    pub f16: bool,
    /// Whether WGSL may `enable subgroups;`.
    pub subgroups: bool,
    /// Limit of workgroup memory in bytes. It is enforced in [`crate::check`], because drivers do not check it.
    pub workgroup_memory_max: u32,
    /// Limit of invocations in one workgroup.
    pub workgroup_invocations_max: u32,
    /// What loop budgets count on this device.
    pub unit: BudgetUnit,
}
