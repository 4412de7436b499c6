//! Plans slices: which parts of a job's steps the next one holds, so that it takes about as long as it should. Pure.

use super::job::Step;
use crate::grid::{Grid, GridPart, next_part, workgroups};
use crate::kernel::Kernel;
use std::sync::Arc;

/// What a slice should take on a GPU.
pub(crate) const SLICE_NS: u64 = 2_000_000;
/// What it should take on a software driver, where a single workgroup may take a millisecond, so that slices of two would
/// be one or two workgroups, too few for its threads (measured: half the throughput of a matrix product).
pub(crate) const SOFTWARE_SLICE_NS: u64 = 400_000_000;
/// What it should take there while others wait.
pub(crate) const SOFTWARE_CONTENDED_NS: u64 = 20_000_000;
/// Parts in one slice.
pub(crate) const PARTS_MAX: usize = 1024;

/// The smallest part that a copy or clear is cut into.
const PART_BYTES_MIN: u64 = 64 * 1024;

/// One slice: its parts, each with the index of its step, and where the next slice begins.
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

/// Plans the slice that begins at `at`: a step, and how much of it is done. `measuring` returns whether a slice with that
/// kernel is on the GPU. None if nothing can be planned until that slice was measured.
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
            Next::Full => break,
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
        // A part that costs nothing measurable still takes some room.
        planner.room_ns = planner.room_ns.saturating_sub(share.expected_ns.max(100));
        plan.expected_ns =
            if planner.alone { slice_ns.saturating_mul(2) } else { plan.expected_ns.saturating_add(share.expected_ns) };
        if share.fills {
            break;
        }
    }
    Some(plan)
}

/// What a step adds to a slice.
struct Share {
    /// Workgroups or bytes of the whole step.
    total: u64,
    /// How many of them the slice gets, and which; none if the step is done.
    part: Option<(u64, StepPart)>,
    expected_ns: u64,
    /// Whether nothing may follow in this slice.
    fills: bool,
}

/// Whether the next step adds to a slice.
enum Next {
    Share(Share),
    /// It belongs to a later slice.
    Full,
    /// Nothing can be planned until its kernel was measured.
    Wait,
}

/// A slice while it is planned.
struct Planner<M> {
    slice_ns: u64,
    mebibyte_ns: u64,
    /// Whether a slice with that kernel is on the GPU.
    measuring: M,
    /// What is left of the slice's time.
    room_ns: u64,
    /// Whether the slice has a dispatch.
    dispatched: bool,
    /// Whether that is of a kernel that was not measured yet, and must be the only one.
    alone: bool,
    /// Bytes that the slice copies and clears.
    bytes: u64,
}

impl<M: Fn(&Arc<Kernel>) -> bool> Planner<M> {
    fn dispatch(&mut self, kernel: &Arc<Kernel>, grid: Grid, plan: &SlicePlan) -> Next {
        // Small copies may follow a new kernel, but no other dispatch.
        if self.alone {
            return Next::Full;
        }
        let total = workgroups(grid);
        let known = kernel.pace.is_known();
        if !known {
            let measuring = (self.measuring)(kernel);
            if measuring && plan.parts.is_empty() {
                return Next::Wait;
            }
            // Alone, or the slice would not tell how fast it is.
            if measuring || self.dispatched || self.bytes > PART_BYTES_MIN {
                return Next::Full;
            }
        }
        // The kernel may have been measured over less data than this dispatch has.
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
