//! Saves what the GPU driver compiled in the builder's folder, so that workers need not compile it again.
//!
//! There are two caches. The first is the pipeline cache that the driver returns as bytes: [`write`] saves it, one file
//! for each component. The driver writes the second to disk itself, on its own threads. The builder exits without
//! joining threads, so [`wait_until_written`] waits for these files.

use gannet_host_gpu::Device;
use gannet_process::child::PIPELINE_CACHE_PREFIX;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for the GPU and the driver's own cache together.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// A cache that has not changed for this long is complete.
const UNCHANGED_MIN: Duration = Duration::from_millis(200);

/// Writes the driver's pipeline cache into the folder, under a name derived from the component's digest.
pub(super) fn write(folder: &Path, component: &[u8], device: Option<&Device>) {
    let Some(data) = device.and_then(Device::driver_cache) else { return };
    let digest = Sha256::digest(component).iter().take(8).fold(0u64, |all, byte| (all << 8) | u64::from(*byte));
    if let Err(error) = std::fs::write(folder.join(format!("{PIPELINE_CACHE_PREFIX}{digest:016x}")), data) {
        // Without the file only the first dispatch is slower.
        tracing::warn!(%error, "the driver cache could not be saved");
    }
}

/// Waits until the GPU lease is released, which happens a millisecond after the GPU's last use. Then waits until the
/// driver has written its own cache: there is a finished file for each kernel, or no file has changed for
/// [`UNCHANGED_MIN`]. Gives up after [`WAIT_MAX`].
pub(super) fn wait_until_written(folder: &Path, kernels: usize, device: Option<&Device>) {
    let began = Instant::now();
    while device.is_some_and(Device::holds_gpu) && began.elapsed() < WAIT_MAX {
        std::thread::sleep(Duration::from_micros(500));
    }
    let (mut last, mut changed) = (count_files(folder), Instant::now());
    while kernels > 0 && began.elapsed() < WAIT_MAX {
        let now = count_files(folder);
        if now.unfinished == 0 && now.finished >= kernels {
            return;
        }
        if last != now {
            (last, changed) = (now, Instant::now());
        }
        if now.unfinished == 0 && changed.elapsed() >= UNCHANGED_MIN {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Numbers of files in a driver's cache, without its index. Unfinished files end in `.tmp`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct FileCounts {
    finished: usize,
    unfinished: usize,
}

fn count_files(folder: &Path) -> FileCounts {
    let mut counts = FileCounts::default();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let inner = count_files(&path);
            counts.finished += inner.finished;
            counts.unfinished += inner.unfinished;
        } else if path.extension().is_some_and(|extension| extension == "tmp") {
            counts.unfinished += 1;
        } else if path.file_name().is_some_and(|name| name != "index") {
            counts.finished += 1;
        }
    }
    counts
}
