//! Slices that are on the GPU.

use super::slice_meter::SliceMeter;
use crate::kernel::Kernel;
use std::sync::Arc;
use std::time::Instant;

/// A slice on the GPU. It belongs to the first running job that has slices in flight.
pub(crate) struct SliceInFlight {
    pub(crate) index: wgpu::SubmissionIndex,
    pub(crate) submitted: Instant,
    pub(crate) meter: SliceMeter,
    /// Whether the header lies in the job's readback buffer and not in the meter's.
    pub(crate) header_in_readback: bool,
    /// Its kernels, each with how many of its workgroups.
    pub(crate) kernels: Vec<(Arc<Kernel>, u64)>,
    /// Bytes that it copies and clears.
    pub(crate) bytes: u64,
    /// What the flag holds if a loop budget ran out in it.
    pub(crate) number: u32,
    pub(crate) expected_ns: u64,
    /// Whether it only makes the driver compile.
    pub(crate) compiles: bool,
}
