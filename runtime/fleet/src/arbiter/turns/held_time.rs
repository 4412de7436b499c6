//! How long members held one GPU, which is the most that can be billed for their work.
//!
//! In: the time that a member held the GPU, and the GPU time that it reports for a request. Out: how much of the report
//! is billed, and how much of the held time is not billed yet.
//!
//! Invariant: what is billed for a member's work, summed up, is never more than the time that it held the GPU.

use super::members::MemberId;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The most members that have left and whose unbilled time is kept. Requests learn a little later that their worker
/// ended, and are then billed.
const LEFT_MAX: usize = 256;

/// The held time of all members of one GPU.
#[derive(Debug, Default)]
pub(super) struct HeldTime {
    /// The time that each member held the GPU and that was not billed yet.
    unbilled: HashMap<MemberId, Duration>,
    /// The same of members that have left, the latest first.
    left: VecDeque<(MemberId, Duration)>,
    total: Duration,
}

impl HeldTime {
    /// Adds a member that has not held the GPU yet.
    pub(super) fn join(&mut self, id: MemberId) {
        self.unbilled.insert(id, Duration::ZERO);
    }

    /// Removes a member that has left. Its unbilled time is kept for a while.
    pub(super) fn leave(&mut self, id: MemberId) {
        if let Some(unbilled) = self.unbilled.remove(&id) {
            self.left.truncate(LEFT_MAX - 1);
            self.left.push_front((id, unbilled));
        }
    }

    /// Adds time for which a member held the GPU.
    pub(super) fn add(&mut self, id: MemberId, held: Duration) {
        if let Some(unbilled) = self.unbilled.get_mut(&id) {
            *unbilled += held;
            self.total += held;
        }
    }

    /// Returns how much of `reported` can be billed, and counts it as billed.
    pub(super) fn bill(&mut self, id: MemberId, reported: Duration) -> Duration {
        let left = self.left.iter_mut().find(|(left, _)| *left == id).map(|(_, unbilled)| unbilled);
        let Some(unbilled) = self.unbilled.get_mut(&id).or(left) else { return Duration::ZERO };
        let billed = reported.min(*unbilled);
        *unbilled -= billed;
        billed
    }

    /// The time that a member held the GPU and that was not billed yet.
    pub(super) fn unbilled(&self, id: MemberId) -> Duration {
        let left = self.left.iter().find(|(left, _)| *left == id).map(|(_, unbilled)| unbilled);
        self.unbilled.get(&id).or(left).copied().unwrap_or_default()
    }

    /// How long members have held the GPU, all together.
    pub(super) fn total(&self) -> Duration {
        self.total
    }
}
