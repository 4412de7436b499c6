//! Free disk space, and who may still use it when it is short.
//!
//! ```text
//!  free space   what is refused with 507
//!  < reserve    uploads, and changes by tenants; deleting goes on
//!  < reserve/4  requests to functions, because their bill needs room; `/readyz` says so
//!  < 16 MiB     every change, also the operator's
//! ```
//!
//! So the operator can suspend and delete tenants on a disk that tenants have filled, and nothing needs a restart when
//! there is room again.

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

/// Returns the bytes that this server can still write on the disk of `path`.
pub fn free(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
