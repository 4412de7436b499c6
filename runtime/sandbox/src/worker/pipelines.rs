//! What the driver compiled for a version at deploy, put into this worker's folder before the version is loaded.

use gannet_host_gpu::Device;
use gannet_process::child::PIPELINES;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The longest that is read.
const BYTES_MAX: u64 = 256 << 20;

/// Files that were found so far.
pub(super) struct Pipelines {
    home: PathBuf,
    known: Mutex<HashSet<OsString>>,
}

impl Pipelines {
    pub(super) fn new(home: PathBuf) -> Self {
        Self { home, known: Mutex::default() }
    }

    /// Gives the device what is new. Without it, only the first dispatch of a kernel is slower.
    pub(super) fn look(&self, device: &Device) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in std::fs::read_dir(&self.home).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let fits = name.to_str().is_some_and(|name| name.starts_with(PIPELINES));
            if fits
                && entry.metadata().is_ok_and(|metadata| metadata.len() <= BYTES_MAX)
                && known.insert(name)
                && let Ok(data) = std::fs::read(entry.path())
            {
                device.use_driver_cache(Some(&data));
            }
        }
    }
}
