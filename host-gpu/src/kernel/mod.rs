//! Kernels that are ready to dispatch: a pipeline, its bind group layouts, and what is known about running it.
//!
//! This is data alone; `compiler/` makes it.

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
    /// Names its source and entry point, whatever its constants.
    pub(crate) source_hash: [u8; 32],
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layouts: Vec<wgpu::BindGroupLayout>,
    /// What a dispatch must bind, by group and index.
    pub variables: Vec<Variable>,
    /// Invocations of one workgroup.
    pub workgroup_size: [u32; 3],
    /// Whether it sets the flag when a loop budget runs out, and so needs it bound.
    pub(crate) counts: bool,
    /// Whether it reads immediates.
    pub(crate) immediates: bool,
    /// The loop budgets of one invocation, and what they count.
    pub(crate) budgets: LoopBudgets,
    pub(crate) unit: BudgetUnit,
    /// Whether it can run in parts: all can but those that were made for comparison.
    pub(crate) sliceable: bool,
    /// How fast it runs.
    pub(crate) pace: Pace,
}

impl Kernel {
    /// Cuts its dispatches into parts of at most so many workgroups, however fast it is; 0 for no such limit.
    pub fn cut_at(&self, workgroups: u64) {
        self.pace.cap(workgroups);
    }

    /// What its budgets count, in words.
    pub(crate) fn budget_unit(&self) -> &'static str {
        match self.unit {
            BudgetUnit::Work => "operations",
            BudgetUnit::Iterations => "iterations",
        }
    }
}
