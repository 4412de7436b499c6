//! Measures how long slices took: by GPU timestamps if the device has them, otherwise by wall time.

use super::slice_meter::SliceHeader;
use crate::usage::{Clock, nanoseconds};
use std::time::Instant;

/// Measures slices in the order in which they end.
pub(crate) struct SliceClock {
    /// Nanoseconds of one tick of the GPU's clock.
    period: f64,
    /// When the previous slice ended, in ticks of the GPU's clock. With two slices in flight, a slice is charged from
    /// there, not from its own begin, so that no time is charged twice.
    previous_end: u64,
    /// The same on the wall clock.
    previous_end_wall: Instant,
}

impl SliceClock {
    /// Makes a clock for a device whose ticks take `period` nanoseconds.
    pub(crate) fn new(period: f32) -> Self {
        Self { period: f64::from(period), previous_end: 0, previous_end_wall: Instant::now() }
    }

    /// Returns how many nanoseconds a slice took that was submitted at `submitted` and has ended by `now`. `header` has
    /// the slice's timestamps; it is None if the device has no timestamps.
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
