//! Kernels that are ready to dispatch: a pipeline, its bind group layouts, its loop budgets and its measured pace.
//!
//! This module only has the data. `compiler/` creates it.

mod catalog;
mod budget;
mod pace;

use crate::check::Variable;
use crate::harden::BudgetUnit;

pub use budget::{SOFTWARE_ITERATIONS_MAX, WORK_MAX};
pub use catalog::{DeclaredKernel, KernelCatalog, declare};
pub(crate) use {budget::LoopBudgets, catalog::kernel_hash, pace::Pace};

/// A kernel ready to dispatch.
#[derive(Debug)]
pub struct Kernel {
    /// Hash of source and entry point, regardless of override values. Quarantine identifies kernels by it.
    pub(crate) source_hash: [u8; 32],
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layouts: Vec<wgpu::BindGroupLayout>,
    /// The variables that a dispatch must bind, sorted by group and index.
    pub variables: Vec<Variable>,
    /// Invocations of one workgroup.
    pub workgroup_size: [u32; 3],
    /// Whether the kernel has counted loops. Then it may set the flag, whose bind group must be bound.
    pub(crate) has_counted_loops: bool,
    /// Whether the kernel reads immediates.
    pub(crate) immediates: bool,
    /// The loop budgets of one invocation.
    pub(crate) budgets: LoopBudgets,
    /// What the budgets count.
    pub(crate) unit: BudgetUnit,
    /// Whether the kernel can run in parts. Only kernels that were compiled for comparison cannot.
    pub(crate) sliceable: bool,
    /// The measured speed, by which its slices are sized.
    pub(crate) pace: Pace,
}

impl Kernel {
    /// Limits the parts of its dispatches to this many workgroups, however fast the kernel is. 0 removes the limit.
    pub fn cut_at(&self, workgroups: u64) {
        self.pace.cap(workgroups);
    }

    /// Returns what the budgets count, as a word for messages.
    pub(crate) fn budget_unit(&self) -> &'static str {
        match self.unit {
            BudgetUnit::Work => "operations",
            BudgetUnit::Iterations => "iterations, as the software driver counts them",
        }
    }
}
