//! Plans slices: chooses the parts of a job's steps for the next slice, so that it takes about the target time. Pure.

use super::job::Step;
use crate::grid::{Grid, GridPart, next_part, workgroups};
use crate::kernel::Kernel;
use std::sync::Arc;

/// Target time of a slice on a GPU.
pub(crate) const SLICE_NS: u64 = 2_000_000;
/// Target time on a software driver. A single workgroup may take a millisecond there, so a slice of two milliseconds
/// would have one or two workgroups, too few for the driver's threads (measured: half the throughput of a matrix
/// product).
pub(crate) const SOFTWARE_SLICE_NS: u64 = 400_000_000;
/// Target time on a software driver while others wait for the GPU.
pub(crate) const SOFTWARE_CONTENDED_NS: u64 = 20_000_000;
/// Limit of the parts in one slice.
pub(crate) const PARTS_MAX: usize = 1024;

/// The smallest part that a copy or clear is cut into, in bytes.
const PART_BYTES_MIN: u64 = 64 * 1024;

/// One slice: its parts, each with the index of its step, and the position where the next slice begins.
#[derive(Debug, Default)]
pub(crate) struct SlicePlan {
    pub(crate) parts: Vec<(usize, StepPart)>,
    /// The step in which the next slice begins.
    pub(crate) step: usize,
    /// Workgroups or bytes of that step that are in this slice or earlier ones.
    pub(crate) done: u64,
    /// Expected time of the slice. If it has a kernel that was never measured, twice the target time.
    pub(crate) expected_ns: u64,
}

impl SlicePlan {
    /// The slice of a job that only makes a driver compile: one dispatch without workgroups.
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

/// Returns the expected time for copying this many bytes, in nanoseconds. `mebibyte_ns` is the time for one MiB.
pub(crate) fn copy_ns(bytes: u64, mebibyte_ns: u64) -> u64 {
    u64::try_from((u128::from(bytes) * u128::from(mebibyte_ns)) >> 20).unwrap_or(u64::MAX)
}

/// Plans the slice that begins at `at`: the index of a step, and how much of it is done. `measuring` returns whether a
/// slice with a kernel is on the GPU. Returns None if nothing can be planned until such a slice was measured.
pub(crate) fn plan(
    steps: &[Step],
    at: (usize, u64),
    slice_ns: u64,
    mebibyte_ns: u64,
    measuring: impl Fn(&Arc<Kernel>) -> bool,
) -> Option<SlicePlan> {
    let mut plan = SlicePlan { parts: Vec::new(), step: at.0, done: at.1, expected_ns: 0 };
    let mut planner =
        Planner { slice_ns, mebibyte_ns, measuring, room_ns: slice_ns, dispatched: false, alone: false, bytes: 0 };
    while planner.room_ns > 0 && plan.parts.len() < PARTS_MAX {
        let Some(step) = steps.get(plan.step) else { break };
        let next = match step {
            Step::Dispatch { kernel, grid, .. } => planner.dispatch(kernel, *grid, &plan),
            Step::Copy { size, .. } | Step::Clear { size, .. } => Next::Share(planner.bytes(*size, plan.done)),
        };
        let share = match next {
            Next::Share(share) => share,
            Next::LaterSlice => break,
            Next::Wait => return None,
        };
        if let Some((amount, part)) = share.part {
            plan.parts.push((plan.step, part));
            plan.done += amount;
        }
        if plan.done >= share.total {
            plan.step += 1;
            plan.done = 0;
        }
        // A part takes some room even if its expected time is zero.
        planner.room_ns = planner.room_ns.saturating_sub(share.expected_ns.max(100));
        plan.expected_ns =
            if planner.alone { slice_ns.saturating_mul(2) } else { plan.expected_ns.saturating_add(share.expected_ns) };
        if share.fills {
            break;
        }
    }
    Some(plan)
}

/// The part of a step that goes into a slice.
struct Share {
    /// Number of workgroups or bytes of the whole step.
    total: u64,
    /// The number of them that the slice gets, and the part; None if nothing of the step is left.
    part: Option<(u64, StepPart)>,
    expected_ns: u64,
    /// Whether the slice ends after this part.
    fills: bool,
}

/// Whether the next step goes into a slice.
enum Next {
    Share(Share),
    /// The step belongs to a later slice.
    LaterSlice,
    /// Nothing can be planned until the step's kernel was measured.
    Wait,
}

/// A slice while it is planned.
struct Planner<M> {
    slice_ns: u64,
    mebibyte_ns: u64,
    /// Returns whether a slice with a kernel is on the GPU.
    measuring: M,
    /// The rest of the slice's target time.
    room_ns: u64,
    /// Whether the slice has a dispatch.
    dispatched: bool,
    /// Whether that dispatch is of a kernel that was not measured yet. It must be the slice's only dispatch.
    alone: bool,
    /// Bytes that the slice copies and clears.
    bytes: u64,
}

impl<M: Fn(&Arc<Kernel>) -> bool> Planner<M> {
    fn dispatch(&mut self, kernel: &Arc<Kernel>, grid: Grid, plan: &SlicePlan) -> Next {
        // Copies may follow the dispatch of an unmeasured kernel, but no other dispatch.
        if self.alone {
            return Next::LaterSlice;
        }
        let total = workgroups(grid);
        let known = kernel.pace.is_known();
        if !known {
            let measuring = (self.measuring)(kernel);
            if measuring && plan.parts.is_empty() {
                return Next::Wait;
            }
            // It must be the slice's only dispatch, after small copies at most. Otherwise the slice's time would not
            // show how fast the kernel is.
            if measuring || self.dispatched || self.bytes > PART_BYTES_MIN {
                return Next::LaterSlice;
            }
        }
        // A dispatch that does not fit into an eighth of a slice begins with an eighth, because its kernel may have
        // been measured over less data.
        let cautious = kernel.pace.fits((self.slice_ns / 8).min(self.room_ns));
        let first = plan.done == 0 && total > cautious && kernel.sliceable;
        let most = match (kernel.sliceable, first) {
            (false, _) => u64::MAX,
            (true, true) => cautious,
            (true, false) => kernel.pace.fits(self.room_ns),
        };
        self.dispatched = true;
        let Some(part) = next_part(grid, plan.done, most) else {
            return Next::Share(Share { total, part: None, expected_ns: 0, fills: false });
        };
        self.alone = !known;
        let amount = part.workgroups();
        let expected_ns = kernel.pace.expected_ns(amount);
        Next::Share(Share { total, part: Some((amount, StepPart::Grid(part))), expected_ns, fills: first })
    }

    fn bytes(&mut self, size: u64, done: u64) -> Share {
        let left = size.saturating_sub(done);
        let fits = (u128::from(self.room_ns) << 20) / u128::from(self.mebibyte_ns.max(1));
        let fits = u64::try_from(fits).unwrap_or(u64::MAX) & !15;
        let now = left.min(fits.max(PART_BYTES_MIN));
        self.bytes += now;
        let part = (now > 0).then_some((now, StepPart::Bytes { from: done, size: now }));
        Share { total: size, part, expected_ns: copy_ns(now, self.mebibyte_ns), fills: false }
    }
}
