//! A write that waits for its session's next submission.

use crate::buffer::Buffer;
use crate::memory::Charge;
use std::sync::Arc;

/// Bytes for a range of a buffer, kept in host memory until a submission copies them there.
pub(crate) struct PendingWrite {
    pub(crate) target: Arc<Buffer>,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
    /// Charge for `data` in host memory.
    pub(crate) charge: Charge,
}
