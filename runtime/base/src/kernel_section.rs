//! How kernels lie in a component: records in custom sections of one name, in the component or in any module inside it.
//!
//! A section is a sequence of records, since linkers join sections of the same name: a little-endian `u32` length and a name, a
//! little-endian `u32` length and WGSL, both UTF-8. The SDK's `kernel!` writes it, and so does `gannet deploy` for the kernels of a
//! manifest; the builder reads it.

/// The name of the custom section.
pub const NAME: &str = "gannet:kernel";

/// The record of one kernel.
pub fn encode(name: &str, wgsl: &str) -> Vec<u8> {
    let mut record = Vec::with_capacity(8 + name.len() + wgsl.len());
    for part in [name, wgsl] {
        record.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(part.as_bytes());
    }
    record
}
