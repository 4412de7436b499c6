//! Parses WGSL into a naga module, after bounding the length of the source and its number of tokens.

use super::tokens;
use crate::error::Error;
use crate::harden::rejected_at;
use naga::Module;

/// The longest accepted source. naga's work grows with the length, and no kernel that we know comes near this limit.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;

const ENABLE_SUBGROUPS: &str = "enable subgroups;";

/// Parses a source. Refuses one that is too long to be parsed quickly.
pub(super) fn parse(wgsl: &str) -> Result<Module, Error> {
    if wgsl.len() > SOURCE_BYTES_MAX {
        return Err(Error::KernelRejected(format!(
            "the source has {} bytes; the limit is {SOURCE_BYTES_MAX}",
            wgsl.len()
        )));
    }
    tokens::check(wgsl)?;
    // naga knows the subgroup operations but not yet the directive. Whether the device has them is checked later, by
    // `validate`.
    let wgsl = &wgsl.replace(ENABLE_SUBGROUPS, &" ".repeat(ENABLE_SUBGROUPS.len()));
    naga::front::wgsl::parse_str(wgsl).map_err(|error| {
        let at = error.location(wgsl);
        rejected_at(at, error.message())
    })
}
