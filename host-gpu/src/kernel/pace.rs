//! The measured speed of a kernel, by which its slices are sized.

use std::sync::atomic::{AtomicU64, Ordering};

/// The measured speed of one kernel.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Picoseconds of one workgroup; zero if it was never measured.
    workgroup_ps: AtomicU64,
    /// The most workgroups that one slice has run; zero if it was never measured.
    largest: AtomicU64,
    /// A limit of workgroups in one part, set by [`crate::kernel::Kernel::cut_at`]; zero for none.
    cap: AtomicU64,
}

/// Limit of the workgroups in a kernel's first slice.
pub(crate) const FIRST: u64 = 16;
/// A slice has at most this many times the workgroups of the kernel's largest earlier slice.
const GROWTH: u64 = 8;

impl Pace {
    /// Returns whether a slice of the kernel was measured.
    pub(crate) fn is_known(&self) -> bool {
        self.largest.load(Ordering::Relaxed) > 0
    }

    /// Returns the expected time of this many workgroups, in nanoseconds.
    pub(crate) fn expected_ns(&self, workgroups: u64) -> u64 {
        let ps = u128::from(self.workgroup_ps.load(Ordering::Relaxed)) * u128::from(workgroups);
        u64::try_from(ps / 1000).unwrap_or(u64::MAX)
    }

    /// Returns how many workgroups fit into `ns` nanoseconds, at least one. [`FIRST`] and [`GROWTH`] limit the
    /// number while only small slices were measured.
    pub(crate) fn fits(&self, ns: u64) -> u64 {
        match self.cap.load(Ordering::Relaxed) {
            0 => self.fits_by_pace(ns),
            cap => self.fits_by_pace(ns).min(cap),
        }
    }

    /// Limits the workgroups of one part, however fast the kernel is. 0 removes the limit.
    pub(crate) fn cap(&self, workgroups: u64) {
        self.cap.store(workgroups, Ordering::Relaxed);
    }

    fn fits_by_pace(&self, ns: u64) -> u64 {
        let largest = self.largest.load(Ordering::Relaxed);
        if largest == 0 {
            return FIRST;
        }
        let by_time = u128::from(ns) * 1000 / u128::from(self.workgroup_ps.load(Ordering::Relaxed).max(1));
        u64::try_from(by_time).unwrap_or(u64::MAX).clamp(1, largest.saturating_mul(GROWTH).max(FIRST))
    }

    /// Notes that `workgroups` took `ns`. A slower measurement replaces the pace at once. A faster one moves it by a
    /// quarter of the difference, because the same kernel may have more data next time.
    pub(crate) fn measured(&self, workgroups: u64, ns: u64) {
        if workgroups == 0 {
            return;
        }
        let new = u64::try_from(u128::from(ns) * 1000 / u128::from(workgroups)).unwrap_or(u64::MAX).max(1);
        let old = self.workgroup_ps.load(Ordering::Relaxed);
        let next = if old == 0 || new >= old { new } else { old - (old - new) / 4 };
        self.workgroup_ps.store(next.max(1), Ordering::Relaxed);
        self.largest.fetch_max(workgroups, Ordering::Relaxed);
    }

    /// Forgets all measurements, because they say nothing about real work.
    pub(crate) fn forget(&self) {
        self.workgroup_ps.store(0, Ordering::Relaxed);
        self.largest.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_begin_tiny_grow_step_by_step_and_shrink_at_once() {
        let pace = Pace::default();
        assert_eq!((pace.is_known(), pace.fits(2_000_000)), (false, FIRST));
        pace.measured(FIRST, 16_000);
        assert_eq!(pace.fits(2_000_000), FIRST * GROWTH, "2,000 would fit, but nothing so large was seen");
        pace.measured(128, 128_000);
        assert_eq!(pace.fits(500_000), 500);
        pace.measured(128, 12_800_000);
        assert_eq!(pace.fits(2_000_000), 20);
        pace.measured(20, 20_000);
        assert!(pace.fits(2_000_000) < 40, "one fast slice is not believed");
    }
}
