//! The form in which the database and the journal keep a record.
//!
//! ```text
//!  key     as it is; that of a key's record and of an audit entry ends with bytes where its name has hex:
//!            k/{64 hex} ◀─▶ k/{32 bytes}      a/{whose}/{32 hex} ◀─▶ a/{whose}/{16 bytes}
//!  value   @{revision} {value}                the revision that wrote it
//!          @{revision}\{value}                one with line feeds: a line feed as \n, a backslash as \\
//!          {JSON}                             what formats up to 5 wrote: it counts as revision 1
//!  in the database the value is followed by a tab and a checksum of key and value, in hex
//! ```
//!
//! Both forms of a key sort equally.

use crate::lines::sum_text;
use crate::records::Revision;
use crate::records::local::format::{escape, unescape};
use std::borrow::Cow;

/// Length of a value's checksum in the database, with the tab before it.
const SUM_BYTES: usize = 9;
/// The revision of what an earlier format wrote.
pub(super) const EARLIER: Revision = 1;
/// Key of the count of records, which is no record.
pub(super) const COUNT: &[u8] = b"c";
/// Key of the newest revision. A record can be removed with the newest revision, and no revision is given twice.
pub(super) const LAST: &[u8] = b"\0last";

/// Returns the checksum of a record: the CRC-32 of its key and its value.
pub(super) fn record_sum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(b"\t");
    hasher.update(value);
    hasher.finalize()
}

/// Returns a value as the database keeps it: followed by a tab and its checksum in hex.
pub(super) fn sealed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + SUM_BYTES);
    stored.extend_from_slice(value);
    stored.push(b'\t');
    stored.extend_from_slice(&sum_text(record_sum(key, value)));
    stored
}

/// Returns the value that the database keeps under `key`, or None if its checksum is wrong or missing.
pub(super) fn unsealed<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (value, sum) = stored.split_at_checked(stored.len().checked_sub(SUM_BYTES)?)?;
    (sum.strip_prefix(b"\t")? == sum_text(record_sum(key, value))).then_some(value)
}

/// Returns a value with its revision.
pub(super) fn with_revision(revision: Revision, value: &[u8]) -> Vec<u8> {
    let is_plain = !value.contains(&b'\n');
    let mut stored = format!("@{revision}{}", if is_plain { ' ' } else { '\\' }).into_bytes();
    if is_plain {
        stored.extend_from_slice(value);
    } else {
        stored.extend_from_slice(&escape(value));
    }
    stored
}

/// Returns the revision that wrote a value, and the value. None if it has another form.
pub(super) fn without_revision(stored: &[u8]) -> Option<(Revision, Cow<'_, [u8]>)> {
    let Some(rest) = stored.strip_prefix(b"@") else { return Some((EARLIER, Cow::Borrowed(stored))) };
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = rest.split_at_checked(end)?;
    let revision = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match rest.split_first()? {
        (b' ', value) => Some((revision, Cow::Borrowed(value))),
        (b'\\', value) => Some((revision, Cow::Owned(unescape(value)?))),
        _ => None,
    }
}

/// Returns a value of which the revision does not matter.
pub(super) fn value_of(stored: &[u8]) -> Option<Cow<'_, [u8]>> {
    without_revision(stored).map(|(_, value)| value)
}

/// The start of the names whose rest is hex, and how many bytes that is.
fn binary_part(name: &[u8]) -> Option<(usize, usize)> {
    if name.starts_with(b"k/") {
        return Some((2, 32));
    }
    let whose = name.strip_prefix(b"a/")?;
    let slash = whose.iter().position(|byte| *byte == b'/')?;
    Some((2 + slash + 1, 16))
}

/// Returns the key under which the record of a name is kept. None if its end must be hex and is not.
pub(super) fn key_of(name: &str) -> Option<Vec<u8>> {
    let name = name.as_bytes();
    if name == COUNT {
        return Some([COUNT, b"\0"].concat());
    }
    let Some((start, length)) = binary_part(name) else { return Some(name.to_vec()) };
    let (before, digits) = name.split_at_checked(start)?;
    let is_hex = digits.len() == 2 * length && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| hex::decode(digits).ok()).flatten().map(|bytes| [before, bytes.as_slice()].concat())
}

/// Returns the name of the record that is kept under a key. None if it is none: the count and the newest revision.
pub(super) fn name_of(key: &[u8]) -> Option<String> {
    if key.strip_suffix(b"\0") == Some(COUNT) {
        return String::from_utf8(COUNT.to_vec()).ok();
    }
    if let Some((before, bytes)) = binary_part(key).and_then(|(start, _)| key.split_at_checked(start)) {
        return Some(format!("{}{}", std::str::from_utf8(before).ok()?, hex::encode(bytes)));
    }
    let is_name = key != COUNT && key.iter().all(u8::is_ascii_graphic);
    is_name.then(|| String::from_utf8(key.to_vec()).ok())?
}

/// Returns the longest beginning that the keys of all names with a prefix share.
pub(super) fn shared_key(prefix: &str) -> &[u8] {
    let start = binary_part(prefix.as_bytes()).map_or(prefix.len(), |(start, _)| start);
    prefix.as_bytes().get(..start).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_keys_and_entries_are_hex_and_others_are_as_they_are() {
        let hash = [0xab; 32];
        let name = format!("k/{}", hex::encode(hash));
        assert_eq!(key_of(&name).unwrap(), [b"k/", hash.as_slice()].concat());
        assert_eq!(key_of("a/acme/0a2f0000000000000000000000000001").unwrap()[7..9], [0x0a, b'/']);
        for odd in ["k/", "k/abc", "a/acme/0", "a/acme/0A2F0000000000000000000000000001", "a//"] {
            assert_eq!(key_of(odd), None, "{odd}");
        }
        for plain in ["a/acme", "t/acme", "n", "c", "k", "v/a/b/0000000001"] {
            assert_eq!(name_of(&key_of(plain).unwrap()).unwrap(), plain);
        }
        assert_eq!((name_of(COUNT), name_of(LAST)), (None, None));
        assert_eq!(
            (shared_key("k/ab"), shared_key("a/acme/0a"), shared_key("a/ac")),
            (&b"k/"[..], &b"a/acme/"[..], &b"a/ac"[..])
        );
    }

    #[test]
    fn what_an_earlier_format_wrote_counts_as_the_first_revision() {
        assert_eq!(without_revision(br#"{"a":1}"#).unwrap(), (1, Cow::Borrowed(&br#"{"a":1}"#[..])));
        for odd in ["@", "@x 1", "@12", "@12x", "@99999999999999999999 1", r"@1\\"] {
            assert_eq!(without_revision(odd.as_bytes()), None, "{odd}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9/%~-]{1,12}", "k/[0-9a-f]{64}", "a/[a-c]{1,2}/[0-9a-f]{32}", Just("c".to_owned()),]
    }

    proptest! {
        #[test]
        fn values_come_back_and_have_no_line_feed(value in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\\'), any::<u8>()], 0..40), revision in any::<u64>()) {
            let stored = with_revision(revision, &value);
            prop_assert!(!stored.contains(&b'\n'));
            let (read, found) = without_revision(&stored).unwrap();
            prop_assert_eq!((read, found.as_ref()), (revision, value.as_slice()));
        }

        #[test]
        fn names_come_back_and_keys_sort_as_names_do(one in name(), two in name()) {
            if let (Some(first), Some(second)) = (key_of(&one), key_of(&two)) {
                prop_assert_eq!(name_of(&first), Some(one.clone()));
                prop_assert_eq!(first.cmp(&second), one.cmp(&two), "{} {}", one, two);
                prop_assert!(first.starts_with(shared_key(&one)));
            }
        }
    }
}
