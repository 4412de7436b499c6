//! Counters of a device. They outlive sessions.

use std::sync::atomic::AtomicU64;

/// What a device has done since it was opened, for tests and metrics.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    /// Slices that were submitted. Each is one submission and one round trip.
    pub round_trips: AtomicU64,
    /// Nanoseconds of GPU time charged.
    pub gpu_ns: AtomicU64,
}
