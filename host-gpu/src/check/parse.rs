//! From text to a module: bounds the source, then has naga parse it.

use super::tokens;
use crate::error::Error;
use crate::harden::rejected_at;
use naga::Module;

/// Longer sources are refused: naga's work grows with them, and no kernel we know comes near.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;

const ENABLE_SUBGROUPS: &str = "enable subgroups;";

/// Parses a source that is short enough to be parsed quickly.
pub(super) fn parse(wgsl: &str) -> Result<Module, Error> {
    if wgsl.len() > SOURCE_BYTES_MAX {
        return Err(Error::KernelRejected(format!(
            "the source has {} bytes; the limit is {SOURCE_BYTES_MAX}",
            wgsl.len()
        )));
    }
    tokens::check(wgsl)?;
    // naga knows the operations but not yet the directive; whether the device has them is checked after this.
    let wgsl = &wgsl.replace(ENABLE_SUBGROUPS, &" ".repeat(ENABLE_SUBGROUPS.len()));
    naga::front::wgsl::parse_str(wgsl).map_err(|error| {
        let at = error.location(wgsl);
        rejected_at(at, error.message())
    })
}
