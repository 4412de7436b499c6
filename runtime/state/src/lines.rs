//! Lines with a checksum, as the ledger and the journal write them: a text without line feeds, a tab, the CRC-32 of the
//! text in hex, and a line feed.
//!
//! A reader tells damage from the end that a crash left: see [`Scan`].

use std::io::{self, BufRead, Write};

/// Maximum length of a line. Writers keep below it.
pub const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Length of the tab and the checksum.
const SEAL_BYTES: usize = 9;

/// Ends the line that begins at `start` of `out`: appends its checksum and the line feed.
pub fn seal(out: &mut Vec<u8>, start: usize) -> io::Result<()> {
    let sum = crc32fast::hash(out.get(start..).unwrap_or_default());
    writeln!(out, "\t{sum:08x}")
}

/// Returns the text of a line, or None if the checksum is wrong or missing. `line` has no line feed.
pub fn unseal(line: &[u8]) -> Option<&[u8]> {
    let (text, sum) = line.split_at_checked(line.len().checked_sub(SEAL_BYTES)?)?;
    (sum.strip_prefix(b"\t")? == sum_text(crc32fast::hash(text))).then_some(text)
}

/// Returns a checksum as it is written: eight hex digits.
pub fn sum_text(sum: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    // The length is right, so this cannot fail.
    let _ = hex::encode_to_slice(sum.to_be_bytes(), &mut digits);
    digits
}

/// A stretch of a file in which no line can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Offset of its first byte.
    pub at: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// What a scan found beside lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Offset of the end of the last line.
    pub end: u64,
    /// Unreadable bytes before `end`: lines follow them, so no crash while writing explains them.
    pub damaged: Vec<Damage>,
    /// Unreadable bytes after `end`: what a crash left of a write, or damage of the last lines.
    pub tail: u64,
}

/// Whether a line has only spaces. A repair leaves such lines in place of damaged bytes.
fn is_blank(line: &[u8]) -> bool {
    line.strip_suffix(b"\n").is_some_and(|text| text.iter().all(|byte| *byte == b' '))
}

/// Calls `each` with the offset and the text of every line from `from` on. `reader` is there already.
pub fn scan(mut reader: impl BufRead, from: u64, mut each: impl FnMut(u64, &[u8])) -> io::Result<Scan> {
    let (mut at, mut bytes) = (from, Vec::new());
    let mut found = Scan { end: from, ..Scan::default() };
    loop {
        bytes.clear();
        let read = io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            found.tail = at - found.end;
            return Ok(found);
        }
        if let Some(text) = bytes.strip_suffix(b"\n").and_then(unseal) {
            if at > found.end {
                found.damaged.push(Damage { at: found.end, length: at - found.end });
            }
            each(at, text);
            found.end = at + read;
        } else if is_blank(&bytes) {
            found.end = at + read;
        }
        at += read;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(texts: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for text in texts {
            let start = out.len();
            out.extend_from_slice(text);
            seal(&mut out, start).unwrap();
        }
        out
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Scan) {
        let mut texts = Vec::new();
        let found = scan(bytes, 0, |_, text| texts.push(text.to_vec())).unwrap();
        (texts, found)
    }

    fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(
            proptest::collection::vec(any::<u8>().prop_filter("no line feed", |b| *b != b'\n'), 1..40),
            1..8,
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_a_torn_end_is_only_a_tail(texts in texts(), cut in any::<prop::sample::Index>()) {
            let bytes = written(&texts);
            let (all, found) = read(&bytes);
            prop_assert_eq!(&all, &texts);
            prop_assert_eq!(found, Scan { end: bytes.len() as u64, ..Scan::default() });
            let cut = cut.index(bytes.len());
            let (some, found) = read(&bytes[..cut]);
            prop_assert!(found.damaged.is_empty() && found.end + found.tail == cut as u64);
            prop_assert_eq!(&some[..], &texts[..some.len()]);
        }

        /// One flipped bit makes one line unreadable, or two if it is in the line feed between them. The scan reports it.
        #[test]
        fn a_flipped_bit_costs_its_line_and_is_told(texts in texts(), bit in any::<prop::sample::Index>()) {
            let mut bytes = written(&texts);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (left, found) = read(&bytes);
            prop_assert!(left.len() + 2 >= texts.len() && left.len() < texts.len());
            prop_assert!(left.iter().all(|text| texts.contains(text)));
            prop_assert!(!found.damaged.is_empty() || found.tail > 0);
        }
    }
}
