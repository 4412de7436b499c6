//! Buffers of a session. They are charged to it, and writes to them are queued for its next submission.

use super::{PendingWrite, Session};
use crate::buffer::{BUFFER_ALIGNMENT, Buffer, check_range};
use crate::error::Error;
use std::sync::Arc;

impl Session {
    /// Creates a zeroed buffer of `size` bytes, a multiple of 4, and charges it to the session.
    pub fn create_buffer(&self, size: u64) -> Result<Arc<Buffer>, Error> {
        if size == 0 || !size.is_multiple_of(BUFFER_ALIGNMENT) {
            return Err(Error::InvalidArgument(format!(
                "a buffer of {size} bytes: sizes are multiples of {BUFFER_ALIGNMENT} and at least {BUFFER_ALIGNMENT}"
            )));
        }
        let largest = self.device().limits().max_buffer_size;
        if size > largest {
            return Err(Error::TooLarge(format!("a buffer of {size} bytes; the device's limit is {largest}")));
        }
        let charge = self.memory().charge(size)?;
        let buffer = self.device().executor().scoped(|wgpu| Buffer::allocate(wgpu, size, charge))?;
        Ok(Arc::new(buffer))
    }

    /// Queues a write. It is executed at the start of the session's next submission.
    pub fn write_buffer(&mut self, target: &Arc<Buffer>, offset: u64, data: Vec<u8>) -> Result<(), Error> {
        check_range("write", offset, data.len() as u64, target.size())?;
        if data.is_empty() {
            return Ok(());
        }
        let charge = self.memory().charge(data.len() as u64)?;
        self.push_write(PendingWrite { target: Arc::clone(target), offset, data, charge })
    }
}
