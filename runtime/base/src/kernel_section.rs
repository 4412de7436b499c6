//! The format in which a component contains kernels: records in custom sections named [`NAME`], in the component or in
//! any module inside it.
//!
//! A section is a sequence of records, because linkers join sections of the same name. A record is a little-endian
//! `u32` length and the kernel's name, then a little-endian `u32` length and the WGSL source, both UTF-8. The SDK's
//! `kernel!` writes records, and so does `gannet deploy` for the kernels of a manifest. The builder reads them.

/// The name of the custom sections.
pub const NAME: &str = "gannet:kernel";

/// Returns the record of one kernel.
pub fn encode(name: &str, wgsl: &str) -> Vec<u8> {
    let mut record = Vec::with_capacity(8 + name.len() + wgsl.len());
    for part in [name, wgsl] {
        record.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(part.as_bytes());
    }
    record
}
