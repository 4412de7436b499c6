//! The hash that names a kernel in quarantine records and in the notes of running kernels.

use sha2::{Digest, Sha256};

/// Returns the SHA-256 of a source and an entry point, each preceded by its length as eight bytes, little-endian.
pub fn source_hash(wgsl: &str, entry: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [wgsl, entry] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_stays_as_it_is_because_quarantine_records_are_kept_on_disk() {
        let hex = hex::encode(source_hash("@compute fn main() {}", "main"));
        assert_eq!(hex, "ea761953e824b11b31647422f13a020f219fbbbc372a884e8ee23fe7b4c97b9c");
    }
}
