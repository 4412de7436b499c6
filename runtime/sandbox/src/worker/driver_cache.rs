//! Gives the GPU driver the kernels that it compiled when a version was deployed, so that first dispatches need not
//! compile.
//!
//! In: files that the front door puts into this worker's folder before it asks to load a version. Each is read once.

use gannet_host_gpu::Device;
use gannet_process::child::PIPELINE_CACHE_PREFIX;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A larger file is ignored.
const BYTES_MAX: u64 = 256 << 20;

/// The driver cache files in a worker's folder.
pub(super) struct DriverCacheFiles {
    folder: PathBuf,
    /// Names of the files that were read.
    read: Mutex<HashSet<OsString>>,
}

impl DriverCacheFiles {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, read: Mutex::default() }
    }

    /// Returns the worker's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives the device the files that are new. Errors are ignored: without a file only first dispatches are slower.
    pub(super) fn load_new(&self, device: &Device) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_cache = name.to_str().is_some_and(|name| name.starts_with(PIPELINE_CACHE_PREFIX));
            if is_cache
                && entry.metadata().is_ok_and(|metadata| metadata.len() <= BYTES_MAX)
                && read.insert(name)
                && let Ok(data) = std::fs::read(entry.path())
            {
                device.use_driver_cache(Some(&data));
            }
        }
    }
}
