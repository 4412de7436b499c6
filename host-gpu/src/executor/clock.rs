//! How long slices took, on the GPU's clock where it has one, otherwise on ours.

use super::slice_meter::SliceHeader;
use crate::usage::{Clock, nanoseconds};
use std::time::Instant;

/// Measures slices in the order in which they end.
pub(crate) struct SliceClock {
    /// Nanoseconds for one tick of the GPU's clock.
    period: f64,
    /// When the last slice ended, on the GPU's clock and on ours: with two slices in flight a
    /// slice is charged from there, not from its begin.
    previous_end: u64,
    previous_end_wall: Instant,
}

impl SliceClock {
    /// A clock for a device whose ticks take `period` nanoseconds.
    pub(crate) fn new(period: f32) -> Self {
        Self { period: f64::from(period), previous_end: 0, previous_end_wall: Instant::now() }
    }

    /// Nanoseconds that a slice took which was submitted at `submitted` and has ended by `now`. `header` has its timestamps,
    /// if it was measured with any.
    pub(crate) fn measure(&mut self, header: Option<SliceHeader>, submitted: Instant, now: Instant) -> (u64, Clock) {
        let measured = match header {
            Some(SliceHeader { begin, end, .. }) => {
                let ticks = end.saturating_sub(begin.max(self.previous_end));
                self.previous_end = self.previous_end.max(end);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
                let ns = (ticks as f64 * self.period) as u64;
                (ns, Clock::Gpu)
            }
            None => {
                let wall = now.saturating_duration_since(submitted.max(self.previous_end_wall));
                (nanoseconds(wall), Clock::Wall)
            }
        };
        self.previous_end_wall = now;
        measured
    }
}
