//! GPU buffers. They are charged before they are allocated, and wgpu zeroes them before their first use.
//!
//! Sessions create them ([`crate::Session::create_buffer`]), and assets on the GPU consist of them.

use crate::error::Error;
use crate::memory::Charge;

/// Offsets and sizes of copies and bindings are multiples of this many bytes.
pub const BUFFER_ALIGNMENT: u64 = 4;

/// A buffer in GPU memory, with its charge.
#[derive(Debug)]
pub struct Buffer {
    pub(crate) wgpu: wgpu::Buffer,
    size: u64,
    /// Declared after `wgpu`, so that the memory is free before its charge is returned.
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl Buffer {
    /// Allocates `size` bytes, which `charge` pays for. Call it inside an error scope.
    pub(crate) fn allocate(device: &wgpu::Device, size: u64, charge: Charge) -> Self {
        let wgpu = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::UNIFORM
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Self { wgpu, size, charge }
    }

    /// Wraps a buffer over existing memory, which `charge` pays for.
    pub(crate) fn imported(wgpu: wgpu::Buffer, charge: Charge) -> Self {
        Self { size: wgpu.size(), wgpu, charge }
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Checks that `offset` and `size` are multiples of 4 and that the range is inside `total` bytes. `what` starts the
/// message.
pub(crate) fn check_range(what: &str, offset: u64, size: u64, total: u64) -> Result<(), Error> {
    if !offset.is_multiple_of(BUFFER_ALIGNMENT) || !size.is_multiple_of(BUFFER_ALIGNMENT) {
        return Err(Error::InvalidArgument(format!(
            "{what}: offset {offset} and size {size} must be multiples of {BUFFER_ALIGNMENT}"
        )));
    }
    match offset.checked_add(size) {
        Some(end) if end <= total => Ok(()),
        _ => Err(Error::InvalidArgument(format!(
            "{what}: {size} bytes from offset {offset} pass the end of a buffer of {total} bytes"
        ))),
    }
}
