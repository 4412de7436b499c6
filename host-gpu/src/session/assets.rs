//! Views of assets, which a session's batches can bind.

use super::Session;
use crate::asset::{Asset, AssetView};
use crate::buffer::BUFFER_ALIGNMENT;
use crate::error::Error;
use crate::usage::nanoseconds;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Session {
    /// Returns a range of an asset that can be bound. If its offset is aligned and it is in one buffer of the asset,
    /// the view is of the shared asset. Otherwise it is a copy, which is charged to the session.
    pub async fn view_asset(&mut self, asset: &Asset, offset: u64, size: u64) -> Result<AssetView, Error> {
        asset.file().check_range("view", offset, size)?;
        if size == 0 {
            return Err(Error::InvalidArgument(format!("view: no bytes from offset {offset}; the minimum is 1")));
        }
        let most = self.device().limits().max_storage_buffer_binding_size;
        if size.next_multiple_of(BUFFER_ALIGNMENT) > most {
            return Err(Error::TooLarge(format!("view: {size} bytes; the device binds at most {most}")));
        }
        let began = Instant::now();
        let usage = Arc::clone(self.usage());
        let result = self.resident_view(asset, offset, size).await;
        usage.waited_ns.fetch_add(nanoseconds(began.elapsed()), Ordering::Relaxed);
        result
    }

    async fn resident_view(&mut self, asset: &Asset, offset: u64, size: u64) -> Result<AssetView, Error> {
        let bound = size.next_multiple_of(BUFFER_ALIGNMENT);
        let assets = Arc::clone(self.device().assets());
        let usage = Arc::clone(self.usage());
        let alignment = u64::from(self.device().limits().min_storage_buffer_offset_alignment);
        if offset.is_multiple_of(alignment) {
            let resident = assets.resident(asset.file(), Some(&usage)).await?;
            self.pin(asset.file().digest(), &resident);
            if let Some((buffer, offset)) = resident.range(offset, bound, alignment) {
                return Ok(AssetView { buffer, offset, bound, size });
            }
        }
        let buffer = self.create_buffer(bound)?;
        assets.uploader().fill(asset.file(), (offset, size), &buffer, Some(&usage), &|| true).await?;
        Ok(AssetView { buffer, offset: 0, bound, size })
    }
}
