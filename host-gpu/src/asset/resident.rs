//! An asset on the GPU, and views of one.

use crate::buffer::Buffer;
use std::sync::Arc;

/// An asset on the GPU.
#[derive(Debug)]
pub(crate) struct ResidentAsset {
    /// Each buffer but the last has `segment` bytes.
    pub(super) buffers: Vec<Arc<Buffer>>,
    pub(super) segment: u64,
}

impl ResidentAsset {
    /// Returns the buffer and the offset in it of a range. None if the range is not in a single buffer or its offset is
    /// not aligned, so that it cannot be bound.
    pub(crate) fn range(&self, offset: u64, bound: u64, alignment: u64) -> Option<(Arc<Buffer>, u64)> {
        let index = usize::try_from(offset.checked_div(self.segment)?).ok()?;
        let buffer = self.buffers.get(index)?;
        let within = offset % self.segment;
        (within.is_multiple_of(alignment) && within + bound <= buffer.size()).then(|| (Arc::clone(buffer), within))
    }

    /// Returns whether no session, no view and no work on the GPU uses the asset.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.buffers.iter().all(|buffer| Arc::strong_count(buffer) == 1)
    }

    /// The size on the GPU in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.size()).sum()
    }
}

/// Keeps an asset on the GPU until it is dropped.
#[derive(Debug)]
pub struct AssetPin(#[expect(dead_code, reason = "held for its drop")] pub(super) Arc<ResidentAsset>);

/// A range of an asset that can be bound.
#[derive(Debug, Clone)]
pub struct AssetView {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) offset: u64,
    /// The size of the binding: `size` rounded up to a multiple of 4.
    pub(crate) bound: u64,
    pub(crate) size: u64,
}

impl AssetView {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}
