//! Slices that were submitted to the GPU and have not ended.

use super::slice_meter::SliceMeter;
use crate::kernel::Kernel;
use std::sync::Arc;
use std::time::Instant;

/// A slice on the GPU. Slices end in order, so the oldest belongs to the first running job that has slices in flight.
pub(crate) struct SliceInFlight {
    pub(crate) index: wgpu::SubmissionIndex,
    pub(crate) submitted: Instant,
    pub(crate) meter: SliceMeter,
    /// Whether the header is in the job's readback buffer and not in the meter's buffer.
    pub(crate) header_in_readback: bool,
    /// Its kernels, each with its number of workgroups in this slice.
    pub(crate) kernels: Vec<(Arc<Kernel>, u64)>,
    /// Bytes that the slice copies and clears.
    pub(crate) bytes: u64,
    /// The slice's number: the value of the flag if a loop budget ran out in this slice.
    pub(crate) number: u32,
    pub(crate) expected_ns: u64,
    /// Whether the slice only makes the driver compile a kernel.
    pub(crate) compiles: bool,
}
