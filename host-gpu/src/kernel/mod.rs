//! Kernels that are ready to dispatch: a pipeline, its bind group layouts, its loop budgets and its measured pace.
//!
//! This module only has the data. `compiler/` creates it.

mod catalog;
mod budget;
mod pace;

use crate::check::Variable;
use crate::harden::{BudgetUnit, HardeningReport};

pub use budget::{LOOP_WORK, SOFTWARE_ITERATIONS_MAX};
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
    /// Name of the entry point.
    pub(crate) entry: String,
    /// What hardening changed. If the kernel has counted loops, it may set the flag, whose bind group must be bound.
    pub(crate) report: HardeningReport,
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

    /// Returns the loop budgets of one invocation, in a request with this limit of work.
    pub(crate) fn budgets(&self, loop_work: u32) -> LoopBudgets {
        LoopBudgets::of(&self.report, self.unit, loop_work)
    }

    /// Says that one of the kernel's loops ran out of its budget, which loops it has, and what helps.
    pub(crate) fn exhausted(&self, loop_work: u32) -> String {
        let LoopBudgets { divergent, uniform } = self.budgets(loop_work);
        let budget = match (self.report.divergent, self.report.uniform) {
            (true, false) => divergent,
            (false, true) => uniform,
            _ => divergent.min(uniform),
        };
        let (unit, advice) = match self.unit {
            BudgetUnit::Work => ("operations", "or ask for more limits.loop_mi_ops"),
            BudgetUnit::Iterations => ("iterations, as the software driver counts them", "or use a gpu"),
        };
        let lines: Vec<String> = self.report.counted_lines.iter().map(u32::to_string).collect();
        let (entry, lines) = (&self.entry, lines.join(", "));
        format!(
            "in kernel {entry:?} a loop ran out of the budget of {budget} {unit}, which one invocation has for the loops \
             that begin on lines {lines}; give each invocation fewer iterations, {advice}"
        )
    }
}
