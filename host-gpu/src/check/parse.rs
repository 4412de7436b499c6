//! Parses WGSL into a naga module, after bounding the length of the source and its number of tokens.

use super::directives::Directives;
use super::tokens;
use crate::error::Error;
use crate::harden::rejected_at;
use naga::Module;

/// The longest accepted source. naga's work grows with the length, and no kernel that we know comes near this limit.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// Parses a source. Refuses one that is too long to be parsed quickly.
pub(super) fn parse(wgsl: &str) -> Result<(Module, Directives), Error> {
    if wgsl.len() > SOURCE_BYTES_MAX {
        return Err(Error::KernelRejected(format!(
            "the source has {} bytes; the limit is {SOURCE_BYTES_MAX}",
            wgsl.len()
        )));
    }
    tokens::check(wgsl)?;
    let directives = Directives::of(wgsl);
    let wgsl = &directives.blanked(wgsl);
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| {
        let at = error.location(wgsl);
        rejected_at(at, error.message())
    })?;
    Ok((module, directives))
}
