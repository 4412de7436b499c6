//! The lines of a segment. Each is sealed with a checksum; see [`crate::lines`].
//!
//! ```text
//!  last 41                                            the first line of a segment: the newest revision before it
//!  commit 42 put jobs/a 15 {"state":"run"} del jobs/b a commit with its changes
//!  copy 17 put jobs/c 2 {}                            a record of an older segment, with its own revision
//! ```
//!
//! A value follows its length as it is. One with line feeds is written after `esc` in place of `put`: a line feed as
//! `\n`, a backslash as `\\`, and the length is that of what is written.

use crate::records::Revision;
use std::io::{self, Write};

/// A value as it is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Where it begins, from where the line is written or read.
    pub(super) at: usize,
    /// Its length.
    pub(super) length: usize,
    /// Whether it was written with `esc`.
    pub(super) escaped: bool,
    /// CRC-32 of the bytes in the file.
    pub(super) sum: u32,
}

/// Appends the beginning of a line of the kind `last`, `commit` or `copy`.
pub(super) fn begin(out: &mut Vec<u8>, kind: &str, revision: Revision) -> io::Result<()> {
    write!(out, "{kind} {revision}")
}

/// Appends a record. `at` of the result is an offset in `out`.
pub(super) fn put(out: &mut Vec<u8>, key: &str, value: &[u8]) -> io::Result<Stored> {
    if !value.contains(&b'\n') {
        return put_stored(out, key, value, false);
    }
    put_stored(out, key, &escape(value), true)
}

/// Returns a value without line feeds: a line feed as `\n`, a backslash as `\\`.
pub(crate) fn escape(value: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(value.len() + 64);
    for byte in value {
        match byte {
            b'\n' => escaped.extend_from_slice(b"\\n"),
            b'\\' => escaped.extend_from_slice(b"\\\\"),
            other => escaped.push(*other),
        }
    }
    escaped
}

/// Appends a record whose value has the form in which it is stored.
pub(super) fn put_stored(out: &mut Vec<u8>, key: &str, stored: &[u8], escaped: bool) -> io::Result<Stored> {
    write!(out, " {} {key} {} ", if escaped { "esc" } else { "put" }, stored.len())?;
    let at = out.len();
    out.extend_from_slice(stored);
    Ok(Stored { at, length: stored.len(), escaped, sum: crc32fast::hash(stored) })
}

/// Appends the removal of a record.
pub(super) fn delete(out: &mut Vec<u8>, key: &str) -> io::Result<()> {
    write!(out, " del {key}")
}

/// Returns the value of bytes that [`escape`] returned, or None if it did not.
pub(crate) fn unescape(stored: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(stored.len());
    let mut bytes = stored.iter();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'\\' => b'\\',
                _ => return None,
            },
            other => *other,
        });
    }
    Some(value)
}

/// Returns the length of a `copy` line with its seal: what a record costs at least.
pub(super) fn copy_bytes(revision: Revision, key_bytes: usize, stored_bytes: usize) -> u64 {
    let digits = |number: u64| u64::from(number.checked_ilog10().unwrap_or(0)) + 1;
    let spaces_and_words = "copy  put   \t00000000\n".len() as u64;
    spaces_and_words + digits(revision) + key_bytes as u64 + digits(stored_bytes as u64) + stored_bytes as u64
}

/// A change in a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// A record is written.
    Put {
        /// Its key.
        key: &'a str,
        /// Its value as it is stored.
        bytes: &'a [u8],
        /// Where that is; `at` is an offset in the line.
        stored: Stored,
    },
    /// A record is removed.
    Delete {
        /// Its key.
        key: &'a str,
    },
}

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The revision that it states.
    pub(super) revision: Revision,
    /// Whether it copies a record of an older segment.
    pub(super) is_copy: bool,
    /// Its changes.
    pub(super) changes: Vec<Change<'a>>,
}

/// Reads words and values that single spaces separate.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.text.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn space(&mut self) -> Option<()> {
        (self.take(1)? == b" ").then_some(())
    }

    fn word(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at..)?;
        let length = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        std::str::from_utf8(self.take(length)?).ok().filter(|word| !word.is_empty())
    }
}

/// Reads a line without its seal. None if this binary does not know its form.
pub(super) fn parse(text: &[u8]) -> Option<Line<'_>> {
    let mut words = Words { text, at: 0 };
    let kind = words.word()?;
    words.space()?;
    let revision = words.word()?.parse().ok()?;
    let mut changes = Vec::with_capacity(1);
    while words.at < text.len() {
        words.space()?;
        let form = words.word()?;
        words.space()?;
        let key = words.word()?;
        let escaped = match form {
            "put" => false,
            "esc" => true,
            "del" => {
                changes.push(Change::Delete { key });
                continue;
            }
            _ => return None,
        };
        words.space()?;
        let length = words.word()?.parse().ok()?;
        words.space()?;
        let at = words.at;
        let bytes = words.take(length)?;
        changes.push(Change::Put { key, bytes, stored: Stored { at, length, escaped, sum: crc32fast::hash(bytes) } });
    }
    let known = matches!((kind, changes.as_slice()), ("commit", _) | ("copy", [Change::Put { .. }]) | ("last", []));
    known.then_some(Line { revision, is_copy: kind == "copy", changes })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn json_is_stored_as_it_is() {
        let mut out = Vec::new();
        begin(&mut out, "commit", 42).unwrap();
        put(&mut out, "jobs/a", br#"{"text":"a\nb"}"#).unwrap();
        delete(&mut out, "jobs/b").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), r#"commit 42 put jobs/a 15 {"text":"a\nb"} del jobs/b"#);
    }

    #[test]
    fn what_has_another_form_is_no_line() {
        for text in [
            "",
            "commit",
            "commit x",
            "commit 1 ",
            "commit 1 put a 3 ab",
            "commit 1 put a 1 ab",
            "copy 1 del a",
            "last 1 del a",
            "later 1",
            "commit 1 set a 1 b",
            "commit 1 put  1 a",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert!(parse(b"last 7").is_some_and(|line| line.revision == 7 && line.changes.is_empty()));
    }

    proptest! {
        #[test]
        fn values_come_back_and_no_line_feed_is_written(
            values in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\\'), any::<u8>()], 0..40), 1..4),
            revision in any::<u64>(),
        ) {
            let mut out = Vec::new();
            begin(&mut out, "commit", revision).unwrap();
            let stored: Vec<Stored> = values.iter().map(|value| put(&mut out, "k", value).unwrap()).collect();
            prop_assert!(!out.contains(&b'\n'));
            let line = parse(&out).unwrap();
            prop_assert_eq!(line.revision, revision);
            for ((change, value), place) in line.changes.iter().zip(&values).zip(&stored) {
                let Change::Put { bytes, stored, .. } = change else { panic!("no put") };
                prop_assert_eq!(stored, place);
                let read = if stored.escaped { unescape(bytes).unwrap() } else { bytes.to_vec() };
                prop_assert_eq!(&read, value);
            }
        }

        #[test]
        fn the_cost_of_a_copy_is_what_it_takes(revision in any::<u64>(), key in "[a-z/]{1,60}", value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            begin(&mut out, "copy", revision).unwrap();
            let stored = put(&mut out, &key, &value).unwrap();
            crate::lines::seal(&mut out, 0).unwrap();
            prop_assert_eq!(copy_bytes(revision, key.len(), stored.length), out.len() as u64);
        }
    }
}
