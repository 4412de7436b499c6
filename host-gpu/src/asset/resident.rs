//! An asset on the GPU, and views of one.

use crate::buffer::Buffer;
use std::sync::Arc;

/// An asset on the GPU.
#[derive(Debug)]
pub(crate) struct ResidentAsset {
    /// Each but the last holds `segment` bytes.
    pub(super) buffers: Vec<Arc<Buffer>>,
    pub(super) segment: u64,
}

impl ResidentAsset {
    /// A range that lies in one buffer, at an offset that can be bound.
    pub(crate) fn range(&self, offset: u64, bound: u64, alignment: u64) -> Option<(Arc<Buffer>, u64)> {
        let index = usize::try_from(offset.checked_div(self.segment)?).ok()?;
        let buffer = self.buffers.get(index)?;
        let within = offset % self.segment;
        (within.is_multiple_of(alignment) && within + bound <= buffer.size()).then(|| (Arc::clone(buffer), within))
    }

    /// Whether neither a session, nor a view, nor work on the GPU needs it.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.buffers.iter().all(|buffer| Arc::strong_count(buffer) == 1)
    }

    /// The bytes that it takes on the GPU.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.size()).sum()
    }
}

/// An asset that stays on the GPU until this is dropped.
#[derive(Debug)]
pub struct AssetPin(#[expect(dead_code, reason = "held for its drop")] pub(super) Arc<ResidentAsset>);

/// A range of an asset that can be bound.
#[derive(Debug, Clone)]
pub struct AssetView {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) offset: u64,
    /// What is bound: the size, up to the next multiple of 4.
    pub(crate) bound: u64,
    pub(crate) size: u64,
}

impl AssetView {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}
