//! The name of a kernel in quarantine records and in the notes about what runs.

use sha2::{Digest, Sha256};

/// Names a source and an entry point: the SHA-256 of both, each behind its length as eight bytes, little-endian.
pub fn source_hash(wgsl: &str, entry: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [wgsl, entry] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
