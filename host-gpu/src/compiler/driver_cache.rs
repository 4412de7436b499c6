//! The driver's pipeline cache: what a Vulkan driver compiled, for another process of the same tenant with the same adapter and
//! driver.
//!
//! The data comes from a builder and goes only to workers of its tenant. wgpu checks which driver and adapter it is for, and
//! ignores data that does not fit. Software drivers and some others have no such cache; they use their own disk cache.

use crate::executor::Executor;
use std::sync::{Mutex, PoisonError};

/// The driver's cache of a device, if it is used.
#[derive(Debug, Default)]
pub(super) struct DriverCache(Mutex<Option<wgpu::PipelineCache>>);

impl DriverCache {
    /// Gives the driver what it compiled before, if anything, and starts to collect what it compiles from now on. Does nothing
    /// where the device has no such cache.
    pub(super) fn start(&self, executor: &Executor, data: Option<&[u8]>) {
        if !executor.wgpu().features().contains(wgpu::Features::PIPELINE_CACHE) {
            return;
        }
        let made = executor.scoped(|device| {
            let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
            // SAFETY: the data was got from the same call in a builder of this tenant, which wgpu checks by its header;
            // whoever broke that builder could harm only this tenant's own process.
            unsafe { device.create_pipeline_cache(&descriptor) }
        });
        match made {
            Ok(cache) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cache),
            Err(error) => tracing::warn!(%error, "a pipeline cache cannot be used"),
        }
    }

    /// The cache for making a pipeline.
    pub(super) fn get(&self) -> Option<wgpu::PipelineCache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the driver has compiled since [`DriverCache::start`]. None if it has no cache.
    pub(super) fn data(&self) -> Option<Vec<u8>> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.as_ref().and_then(wgpu::PipelineCache::get_data).filter(|data| !data.is_empty())
    }
}
