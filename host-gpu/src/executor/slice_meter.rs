//! Measures slices: timestamp queries, and the header in which timestamps and flag are read back.
//!
//! ```text
//!  header:  begin u64 │ end u64 │ flag u32 │ unused u32
//! ```
//!
//! The last slice of a job has its header at the start of the job's readback buffer, before the reads. Other slices
//! have it in the small buffer of their meter.

use crate::adapter::TIMESTAMPS;
use std::sync::{Mutex, PoisonError};

/// Limit of idle meters that a device keeps.
const IDLE_MAX: usize = 64;

/// Size of a header in bytes, padded so that the reads after it are aligned.
pub(crate) const HEADER_SIZE: u64 = 24;
/// Offset of the flag in a header.
pub(crate) const FLAG_OFFSET: u64 = 16;
/// Size of the two timestamps in bytes.
pub(crate) const TIMESTAMPS_SIZE: u64 = 16;

/// The means to measure one slice, taken from [`SliceMeters`]: a pair of timestamp queries, and a small buffer for the
/// header of a slice that is not a job's last.
#[derive(Debug, Clone)]
pub(crate) struct SliceMeter {
    /// The queries and the buffer they resolve into; None if the device has no timestamps.
    pub(crate) timestamps: Option<(wgpu::QuerySet, wgpu::Buffer)>,
    pub(crate) header_buffer: wgpu::Buffer,
}

/// What the GPU reports about a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SliceHeader {
    /// When the slice began, in ticks.
    pub(crate) begin: u64,
    /// When the slice ended, in ticks.
    pub(crate) end: u64,
    /// The flag: the number of the latest slice in which a loop budget ran out; zero if none has.
    pub(crate) exhausted: u32,
}

/// Reads the header of a mapped buffer.
pub(crate) fn read_header(buffer: &wgpu::Buffer) -> Option<SliceHeader> {
    let view = buffer.get_mapped_range(0..HEADER_SIZE).ok()?;
    let (begin, rest) = view.split_first_chunk::<8>()?;
    let (end, rest) = rest.split_first_chunk::<8>()?;
    let (flag, _) = rest.split_first_chunk::<4>()?;
    let exhausted = u32::from_le_bytes(*flag);
    Some(SliceHeader { begin: u64::from_le_bytes(*begin), end: u64::from_le_bytes(*end), exhausted })
}

/// The pool of idle meters of one device.
#[derive(Debug)]
pub(crate) struct SliceMeters {
    device: wgpu::Device,
    /// Whether the device has timestamps.
    timestamps: bool,
    idle: Mutex<Vec<SliceMeter>>,
}

impl SliceMeters {
    pub(crate) fn new(device: wgpu::Device) -> Self {
        let timestamps = device.features().contains(TIMESTAMPS);
        Self { device, timestamps, idle: Mutex::default() }
    }

    /// Takes an idle meter or makes a new one. Call it inside an error scope.
    pub(crate) fn take(&self) -> SliceMeter {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| {
            let buffer = |size, usage| {
                self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let timestamps = self.timestamps.then(|| {
                let set = self.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: None,
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                });
                (set, buffer(TIMESTAMPS_SIZE, wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC))
            });
            let header_buffer = buffer(HEADER_SIZE, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
            SliceMeter { timestamps, header_buffer }
        })
    }

    /// Takes back the meter of a slice that has ended. Its header must not be mapped.
    pub(crate) fn put_back(&self, meter: SliceMeter) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(meter);
        }
    }
}
