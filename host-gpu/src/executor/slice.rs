//! Plans slices: which parts of a job's steps the next one holds, so that it takes about as long as it should. Pure.

use super::job::Step;
use crate::grid::{GridPart, next_part, workgroups};
use crate::kernel::Kernel;
use std::sync::Arc;

/// What a slice should take on a GPU.
pub(crate) const SLICE_NS: u64 = 2_000_000;
/// What it should take on a software driver, where a single workgroup may take a millisecond, so that slices of two would
/// be one or two workgroups, too few for its threads (measured: half the throughput of a matrix product).
pub(crate) const SOFTWARE_SLICE_NS: u64 = 400_000_000;
/// What it should take there while others wait.
pub(crate) const SOFTWARE_CONTENDED_NS: u64 = 20_000_000;
/// Commands in one slice.
pub(crate) const PARTS_MAX: usize = 1024;

/// The smallest piece that a copy or clear is cut into.
const PIECE_MIN: u64 = 64 * 1024;

/// What one slice holds: for each part the step, and the part of it; and where the next slice begins.
#[derive(Debug, Default)]
pub(crate) struct SlicePlan {
    pub(crate) parts: Vec<(usize, StepPart)>,
    pub(crate) step: usize,
    pub(crate) done: u64,
    /// What it should take; two slices when nobody can know.
    pub(crate) expected_ns: u64,
}

impl SlicePlan {
    /// The one dispatch, of no workgroup, of a job that makes a driver compile.
    pub(crate) fn compile() -> Self {
        let part = GridPart { base: [0; 3], size: [0; 3] };
        Self { parts: vec![(0, StepPart::Grid(part))], step: 1, done: 0, expected_ns: 0 }
    }
}

/// A part of one step.
#[derive(Debug)]
pub(crate) enum StepPart {
    Grid(GridPart),
    Bytes { from: u64, size: u64 },
}

/// Nanoseconds that copying so many bytes is expected to take.
pub(crate) fn copy_ns(bytes: u64, mebibyte_ns: u64) -> u64 {
    u64::try_from((u128::from(bytes) * u128::from(mebibyte_ns)) >> 20).unwrap_or(u64::MAX)
}

/// What the slice that begins at `at`, a step and how much of it is done, holds. `measuring` tells whether a slice with
/// that kernel is on the GPU. None when it must wait until that was measured.
pub(crate) fn plan(
    steps: &[Step],
    at: (usize, u64),
    slice_ns: u64,
    mebibyte_ns: u64,
    measuring: impl Fn(&Arc<Kernel>) -> bool,
) -> Option<SlicePlan> {
    let mut plan = SlicePlan { parts: Vec::new(), step: at.0, done: at.1, expected_ns: 0 };
    let mut room = slice_ns;
    // The kernel may have been measured over less data than this dispatch has.
    let first_ns = slice_ns / 8;
    let (mut dispatched, mut alone) = (false, false);
    let mut bytes = 0;
    while room > 0 && plan.parts.len() < PARTS_MAX {
        let Some(step) = steps.get(plan.step) else { break };
        let (total, piece, spent, end) = match step {
            Step::Dispatch { kernel, grid, .. } => {
                if alone {
                    break;
                }
                let total = workgroups(*grid);
                let known = kernel.pace.is_known();
                if !known {
                    let measuring = measuring(kernel);
                    if measuring && plan.parts.is_empty() {
                        return None;
                    }
                    // Alone, or the slice would not tell how fast it is.
                    if measuring || dispatched || bytes > PIECE_MIN {
                        break;
                    }
                }
                let cautious = kernel.pace.fits(first_ns.min(room));
                let first = plan.done == 0 && total > cautious && kernel.sliceable;
                let most = match (kernel.sliceable, first) {
                    (false, _) => u64::MAX,
                    (true, true) => cautious,
                    (true, false) => kernel.pace.fits(room),
                };
                dispatched = true;
                match next_part(*grid, plan.done, most) {
                    Some(part) => {
                        let spent = kernel.pace.expected_ns(part.workgroups());
                        // Small copies may follow a new kernel, but no other dispatch.
                        alone = !known;
                        (total, Some((part.workgroups(), StepPart::Grid(part))), spent, first)
                    }
                    None => (total, None, 0, false),
                }
            }
            Step::Copy { size, .. } | Step::Clear { size, .. } => {
                let left = size.saturating_sub(plan.done);
                let fits = (u128::from(room) << 20) / u128::from(mebibyte_ns.max(1));
                let fits = u64::try_from(fits).unwrap_or(u64::MAX) & !15;
                let now = left.min(fits.max(PIECE_MIN));
                bytes += now;
                let spent = copy_ns(now, mebibyte_ns);
                let piece = (now > 0).then_some((now, StepPart::Bytes { from: plan.done, size: now }));
                (*size, piece, spent, false)
            }
        };
        if let Some((amount, piece)) = piece {
            plan.parts.push((plan.step, piece));
            plan.done += amount;
        }
        if plan.done >= total {
            plan.step += 1;
            plan.done = 0;
        }
        // A part that costs nothing measurable still takes its place.
        room = room.saturating_sub(spent.max(100));
        plan.expected_ns = if alone { slice_ns.saturating_mul(2) } else { plan.expected_ns.saturating_add(spent) };
        if end {
            break;
        }
    }
    Some(plan)
}
