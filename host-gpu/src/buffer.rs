//! GPU buffers: charged, then allocated, zeroed by wgpu before their first use.

use crate::host_memory::Pages;
use crate::memory::Charge;
use crate::session::PendingWrite;
use crate::{Batch, Device, Error, Session, Submission};
use std::sync::Arc;

/// Copies and bindings work in steps of this many bytes.
pub const STEP: u64 = 4;

/// A range of GPU memory.
#[derive(Debug)]
pub struct Buffer {
    pub(crate) wgpu: wgpu::Buffer,
    size: u64,
    /// After `wgpu`, so that the memory is free before its charge is given back.
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

/// Checks that `offset` and `size` are multiples of 4 and lie inside `total` bytes.
pub(crate) fn in_range(what: &str, offset: u64, size: u64, total: u64) -> Result<(), Error> {
    if !offset.is_multiple_of(STEP) || !size.is_multiple_of(STEP) {
        return Err(Error::InvalidArgument(format!(
            "{what}: offset {offset} and size {size} must be multiples of {STEP}"
        )));
    }
    match offset.checked_add(size) {
        Some(end) if end <= total => Ok(()),
        _ => Err(Error::InvalidArgument(format!(
            "{what}: {size} bytes from offset {offset} pass the end of a buffer of {total} bytes"
        ))),
    }
}

impl Buffer {
    /// Makes a zeroed buffer of `size` bytes, a multiple of 4, charged to the session.
    pub fn create(session: &Session, size: u64) -> Result<Arc<Self>, Error> {
        if size == 0 || !size.is_multiple_of(STEP) {
            return Err(Error::InvalidArgument(format!(
                "a buffer of {size} bytes: sizes are multiples of {STEP} and at least {STEP}"
            )));
        }
        let largest = session.device().limits().max_buffer_size;
        if size > largest {
            return Err(Error::TooLarge(format!("a buffer of {size} bytes; the device's largest has {largest}")));
        }
        let charge = session.memory().charge(size)?;
        Self::allocate(session.device(), size, charge)
    }

    pub(crate) fn allocate(device: &Device, size: u64, charge: Charge) -> Result<Arc<Self>, Error> {
        let wgpu = device.scoped(|wgpu| {
            wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::UNIFORM
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        Ok(Arc::new(Self { wgpu, size, charge }))
    }

    /// A buffer that pages of a file are. The charge comes back if the driver refuses.
    pub(crate) fn of_pages(device: &Device, pages: Pages, charge: Charge) -> Result<Arc<Self>, Charge> {
        match device.scoped(|wgpu| pages.import(wgpu)) {
            Ok(Some(wgpu)) => Ok(Arc::new(Self { size: wgpu.size(), wgpu, charge })),
            Ok(None) | Err(_) => Err(charge),
        }
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Queues a write ahead of the session's next submission.
    pub fn write(self: &Arc<Self>, session: &mut Session, offset: u64, data: Vec<u8>) -> Result<(), Error> {
        in_range("write", offset, data.len() as u64, self.size)?;
        if data.is_empty() {
            return Ok(());
        }
        let charge = session.memory().charge(data.len() as u64)?;
        session.push_write(PendingWrite { target: Arc::clone(self), offset, data, charge })
    }

    /// Submits a read of `size` bytes from `offset`; they come with the submission.
    pub fn read(
        self: &Arc<Self>,
        session: &mut Session,
        offset: u64,
        size: u64,
    ) -> Result<crate::batch::Encoded, Error> {
        let mut batch = Batch::default();
        batch.read(self, offset, size)?;
        batch.encode(session)
    }
}

/// The bytes of a submission that holds one read.
pub async fn bytes_of(submission: &mut Submission) -> Result<Vec<u8>, Error> {
    submission.wait().await?;
    submission.take_reads().await.pop().ok_or_else(Error::lost)
}
