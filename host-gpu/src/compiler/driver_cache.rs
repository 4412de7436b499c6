//! The driver's pipeline cache: pipelines that a Vulkan driver compiled in one process, for use in another process of
//! the same tenant with the same adapter and driver.
//!
//! The data comes from a builder and only goes to workers of the same tenant. wgpu checks the driver and adapter it was
//! made with, and ignores data of others. Software drivers and some others have no such cache. They use their own disk
//! cache.

use crate::executor::Executor;
use std::sync::{Mutex, PoisonError};

/// The pipeline cache of a device; None if it is not in use.
#[derive(Debug, Default)]
pub(super) struct DriverCache(Mutex<Option<wgpu::PipelineCache>>);

impl DriverCache {
    /// Gives the driver cached pipelines, if there are any, and starts to collect those that it compiles from now on.
    /// Does nothing if the device has no pipeline cache.
    pub(super) fn start(&self, executor: &Executor, data: Option<&[u8]>) {
        if !executor.wgpu().features().contains(wgpu::Features::PIPELINE_CACHE) {
            return;
        }
        let made = executor.scoped(|device| {
            let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
            // SAFETY: the data comes from a pipeline cache that was made by this call in a builder of the same tenant,
            // and wgpu checks its header. An attacker who controls that builder can only harm this tenant's own
            // process.
            unsafe { device.create_pipeline_cache(&descriptor) }
        });
        match made {
            Ok(cache) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cache),
            Err(error) => tracing::warn!(%error, "a pipeline cache cannot be used"),
        }
    }

    /// The cache to pass when a pipeline is created.
    pub(super) fn get(&self) -> Option<wgpu::PipelineCache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the pipelines that the driver has compiled since [`DriverCache::start`]. None if there is no cache.
    pub(super) fn data(&self) -> Option<Vec<u8>> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.as_ref().and_then(wgpu::PipelineCache::get_data).filter(|data| !data.is_empty())
    }
}
