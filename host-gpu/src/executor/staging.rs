//! The pool of buffers through which bytes go to the GPU and come back: upload and readback buffers.
//!
//! Making them anew costs more than a small dispatch. A pooled upload buffer rests mapped for
//! writing, a readback buffer rests mapped for reading; the GPU thread unmaps them just before
//! it submits. They belong to one device and so to one tenant, hence are never cleared.

use crate::memory::Charge;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of idle staging that a device keeps.
const IDLE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Idle buffers that a device keeps: the search for one that fits is linear.
const IDLE_MAX: usize = 64;
/// The smallest staging buffer.
const SIZE_MIN: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Upload,
    Readback,
}

#[derive(Debug)]
struct Idle {
    buffer: wgpu::Buffer,
    mapped: bool,
    direction: Direction,
}

/// The staging buffers of one device that nobody uses.
#[derive(Debug)]
pub(crate) struct StagingPool {
    device: wgpu::Device,
    idle: Mutex<Vec<Idle>>,
}

/// A staging buffer on loan.
#[derive(Debug)]
pub(crate) struct StagingBuffer {
    pub(crate) buffer: wgpu::Buffer,
    mapped: bool,
    direction: Direction,
    /// Whether a submission has used it: a buffer that could not be allocated never gets there, and must
    /// not be pooled.
    proven: bool,
    pool: Weak<StagingPool>,
    /// Paid for as long as it is on loan, also while a guest holds results that it has not taken.
    /// After `buffer`, so that the memory is pooled or free before its charge is given back.
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl StagingPool {
    pub(crate) fn new(device: wgpu::Device) -> Self {
        Self { device, idle: Mutex::default() }
    }

    /// Bytes that a staging buffer for `size` bytes takes: what a caller must have charged.
    pub(crate) fn rounded(size: u64) -> u64 {
        let size = size.max(SIZE_MIN);
        // Steps of an eighth keep waste small and let buffers be used again for similar sizes.
        let step = (size.next_power_of_two() / 8).max(SIZE_MIN);
        size.next_multiple_of(step)
    }

    /// A buffer mapped for writing; `charge` pays for it. Call it inside an error scope.
    pub(crate) fn upload(self: &Arc<Self>, size: u64, charge: Charge) -> StagingBuffer {
        self.take(size, Direction::Upload, charge)
    }

    /// A buffer that a submission can copy results into; `charge` pays for it. Call it inside an error
    /// scope.
    pub(crate) fn readback(self: &Arc<Self>, size: u64, charge: Charge) -> StagingBuffer {
        self.take(size, Direction::Readback, charge)
    }

    fn take(self: &Arc<Self>, size: u64, direction: Direction, charge: Charge) -> StagingBuffer {
        let size = Self::rounded(size);
        let pool = Arc::downgrade(self);
        let found = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |i: &Idle| i.direction == direction && i.buffer.size() == size;
            idle.iter().position(fits).map(|index| idle.swap_remove(index))
        };
        if let Some(Idle { buffer, mapped, direction }) = found {
            return StagingBuffer { buffer, mapped, direction, proven: true, pool, charge };
        }
        let upload = direction == Direction::Upload;
        let usage = if upload {
            wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC
        } else {
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST
        };
        let buffer =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: upload });
        StagingBuffer { buffer, mapped: upload, direction, proven: false, pool, charge }
    }
}

impl StagingBuffer {
    /// Unmaps a mapped buffer. Only the GPU thread calls this.
    pub(crate) fn unmap(&mut self) {
        if std::mem::take(&mut self.mapped) {
            self.buffer.unmap();
        }
    }

    /// Asks for a mapping, which is there when the submission that uses the buffer is done. Only
    /// the GPU thread calls this.
    pub(crate) fn map(&mut self, mode: wgpu::MapMode) {
        self.buffer.map_async(mode, .., |result| {
            if let Err(error) = result {
                tracing::error!(%error, "a staging buffer could not be mapped");
            }
        });
        self.mapped = true;
    }

    /// A submission that used it has ended well. Only the GPU thread calls this.
    pub(crate) fn prove(&mut self) {
        self.proven = true;
    }

    /// Writes into a mapped upload buffer; false if it is not mapped or too small.
    pub(crate) fn fill(&self, writes: &mut dyn Iterator<Item = (u64, &[u8])>) -> bool {
        for (offset, bytes) in writes {
            let end = offset + bytes.len() as u64;
            let Ok(mut view) = self.buffer.get_mapped_range_mut(offset..end) else { return false };
            view.copy_from_slice(bytes);
        }
        true
    }

    /// Bytes of a mapped readback buffer.
    pub(crate) fn bytes(&self, offset: u64, size: u64) -> Option<Vec<u8>> {
        if size == 0 {
            return Some(Vec::new());
        }
        let view = self.buffer.get_mapped_range(offset..offset + size).ok()?;
        Some(view.to_vec())
    }
}

impl Drop for StagingBuffer {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let held: u64 = idle.iter().map(|i| i.buffer.size()).sum();
        let usable = self.proven && self.mapped;
        if usable && idle.len() < IDLE_MAX && held + self.buffer.size() <= IDLE_BYTES_MAX {
            idle.push(Idle { buffer: self.buffer.clone(), mapped: self.mapped, direction: self.direction });
        }
    }
}
