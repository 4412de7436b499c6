//! What measures a slice: timestamp queries, and the header that brings them back together with the flag.
//!
//! ```text
//!  header:  begin u64 │ end u64 │ flag u32 │ unused u32
//! ```
//!
//! The last slice of a job has its header at the start of the job's readback buffer, before the reads; any other has it in
//! the small buffer of its meter.

use crate::adapter::TIMESTAMPS;
use std::sync::{Mutex, PoisonError};

/// Idle meters that a device keeps.
const IDLE_MAX: usize = 64;

/// Bytes of a header, padded so that reads behind it are aligned.
pub(crate) const HEADER_SIZE: u64 = 24;
/// Where the flag lies in a header.
pub(crate) const FLAG_OFFSET: u64 = 16;
/// Bytes of the two timestamps.
pub(crate) const TIMESTAMPS_SIZE: u64 = 16;

/// What a slice is measured with, on loan: a pair of timestamp queries, and a small buffer to read them and the flag
/// from when the slice does not end a job.
#[derive(Debug, Clone)]
pub(crate) struct SliceMeter {
    /// The queries and the buffer they resolve into, where the device has timestamps.
    pub(crate) timestamps: Option<(wgpu::QuerySet, wgpu::Buffer)>,
    pub(crate) header: wgpu::Buffer,
}

/// What the GPU says about a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SliceHeader {
    /// When it began and ended, in ticks.
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// The number of the latest slice in which a loop budget ran out.
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

/// The meters of one device that no slice uses.
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

    /// What a slice is measured with. Call it inside an error scope.
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
            let header = buffer(HEADER_SIZE, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
            SliceMeter { timestamps, header }
        })
    }

    /// Takes back what measured a slice that ended well; its header is not mapped.
    pub(crate) fn put_back(&self, meter: SliceMeter) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(meter);
        }
    }
}
