//! Free disk space, and who may still use it when it is short.
//!
//! ```text
//!  free space   what is refused with 507
//!  < reserve    uploads, and changes by tenants; deleting, and builds of deployed versions, go on
//!  < reserve/4  requests to functions, because their bill needs room; `/readyz` says so
//!  < 16 MiB     every change, also the operator's
//! ```
//!
//! So the operator can suspend and delete tenants on a disk that tenants have filled, and nothing needs a restart when
//! there is room again.

use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::path::Path;

/// A commit needs this much free space, because sled cannot go on after a write that found none.
pub(super) const COMMIT_BYTES_MIN: u64 = 16 << 20;

/// The part of the reserve below which nothing is admitted any more.
const ADMISSION_PART: u64 = 4;

/// Returns whether there is room for the bill of more requests. `reserve` is the configured reserve in bytes.
pub fn has_room_for_requests(free: u64, reserve: u64) -> bool {
    free >= (reserve / ADMISSION_PART).max(COMMIT_BYTES_MIN)
}

/// Takes the disk space of a file before its bytes come, so that writing it does not fail after most of them have. Its
/// length stays.
pub fn claim(file: &File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        // Not every file system can do this.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gives back the space that was claimed for a file beyond its length.
pub fn release_claim(file: &File) -> io::Result<()> {
    file.set_len(file.metadata()?.len())
}

/// Returns the bytes that this server can still write on the disk of `path`.
pub fn free(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
