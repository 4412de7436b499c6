//! What a record of key-value storage contains. Pure.
//!
//! ```text
//!  1 u8 | kind u8 (1 a value, 0 a tombstone) | write id 16 bytes | length of the key u16, little-endian | key | value
//! ```
//!
//! A write id is never given twice. By it, whoever got the answer "unknown" sees whether a record is the one it wrote.

use super::account::KeyValueUse;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

const FORMAT: u8 = 1;
const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;
/// Bytes that each key counts for beside its own and those of its value.
const KEY_OVERHEAD: u64 = 128;

/// The id of a write.
pub(super) type WriteId = [u8; 16];

/// Gives out ids of writes.
#[derive(Debug)]
pub(super) struct WriteIds {
    /// Drawn at the start.
    start: [u8; 8],
    next: AtomicU64,
}

impl WriteIds {
    pub(super) fn new() -> io::Result<Self> {
        let mut start = [0; 8];
        getrandom::fill(&mut start).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { start, next: AtomicU64::new(0) })
    }

    pub(super) fn next(&self) -> WriteId {
        let number = u64::from_be_bytes(self.start);
        let id = u128::from(number) << 64 | u128::from(self.next.fetch_add(1, Ordering::Relaxed));
        id.to_be_bytes()
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) write: WriteId,
    pub(super) key: String,
    /// None in a tombstone.
    pub(super) value: Option<Vec<u8>>,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let value = self.value.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(20 + self.key.len() + value.len());
        out.extend([FORMAT, if self.value.is_some() { VALUE } else { TOMBSTONE }]);
        out.extend(self.write);
        out.extend(u16::try_from(self.key.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend(self.key.as_bytes());
        out.extend(value);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[format, kind], rest) = bytes.split_first_chunk()?;
        let (write, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let value = match (format, kind) {
            (FORMAT, VALUE) => Some(value.to_vec()),
            (FORMAT, TOMBSTONE) => None,
            _ => return None,
        };
        Some(Self { write: *write, key: String::from_utf8(key.to_vec()).ok()?, value })
    }

    /// Returns what it counts for.
    pub(super) fn used(&self) -> KeyValueUse {
        match &self.value {
            Some(value) => KeyValueUse { keys: 1, bytes: KEY_OVERHEAD + self.key.len() as u64 + value.len() as u64 },
            None => KeyValueUse::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(key in "\\PC{0,300}", value: Option<Vec<u8>>, write: WriteId) {
            let record = Record { write, key, value };
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn no_bytes_make_the_reader_fail(bytes: Vec<u8>) {
            let _ = Record::decode(&bytes);
        }
    }

    #[test]
    fn ids_of_writes_differ() {
        let ids = WriteIds::new().unwrap();
        assert!(ids.next() != ids.next() && ids.next() != WriteIds::new().unwrap().next());
    }
}
