//! The journal: a second copy of all records, and the count of what the database must contain.
//!
//! The database alone cannot tell that it lost something: after damage sled returns an older or a smaller state without
//! an error. So every change is written to the journal first, and a start compares both ([`super::verify`]).
//!
//! ```text
//!  DATA/journal/0000000007.log     lines with a checksum, see lines.rs:
//!    12 ⇥ +{key} ⇥ {value}         round 12 writes a record
//!    12 ⇥ -{key}                   round 12 removes a record
//!    12 ⇥ =2                       round 12 is complete and has 2 changes
//! ```
//!
//! A file begins with one round that contains all records of that moment. When later rounds have made it much longer,
//! the next file is written beside it, synced, renamed, and the old one is removed.
//!
//! A key that is not printable ASCII is written as `%` and its bytes in hex.

use crate::lines::{self, Damage};
use crate::store::StoreError;
use crate::store::files::{sync_folder, write_durably};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that is at least this long, and [`GROWTH_MAX`] times as long as its first round, is replaced.
const REPLACE_BYTES_MIN: u64 = 16 << 20;
/// See [`REPLACE_BYTES_MIN`].
const GROWTH_MAX: u64 = 4;

/// A change of one record: its key, and its new value or None if it is removed.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

fn push_key(key: &[u8], out: &mut Vec<u8>) {
    if key.iter().all(u8::is_ascii_graphic) && key.first() != Some(&b'%') {
        out.extend_from_slice(key);
    } else {
        out.push(b'%');
        out.extend_from_slice(hex::encode(key).as_bytes());
    }
}

fn read_key(text: &[u8]) -> Option<Vec<u8>> {
    match text.strip_prefix(b"%") {
        Some(digits) => hex::decode(digits).ok(),
        None => Some(text.to_vec()),
    }
}

fn encode<'a>(round: u64, changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> io::Result<Vec<u8>> {
    let (mut out, mut count) = (Vec::new(), 0_u64);
    for (key, value) in changes {
        let start = out.len();
        out.extend_from_slice(format!("{round}\t{}", if value.is_some() { '+' } else { '-' }).as_bytes());
        push_key(key, &mut out);
        if let Some(value) = value {
            out.push(b'\t');
            out.extend_from_slice(value);
        }
        lines::seal(&mut out, start)?;
        count += 1;
    }
    let start = out.len();
    out.extend_from_slice(format!("{round}\t={count}").as_bytes());
    lines::seal(&mut out, start)?;
    Ok(out)
}

enum Line<'a> {
    Change(Vec<u8>, Option<&'a [u8]>),
    End(u64),
}

fn decode(text: &[u8]) -> Option<(u64, Line<'_>)> {
    let mut parts = text.splitn(3, |byte| *byte == b'\t');
    let round = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let (kind, name) = parts.next()?.split_first()?;
    let line = match (kind, parts.next()) {
        (b'+', Some(value)) => Line::Change(read_key(name)?, Some(value)),
        (b'-', None) => Line::Change(read_key(name)?, None),
        (b'=', None) => Line::End(std::str::from_utf8(name).ok()?.parse().ok()?),
        _ => return None,
    };
    Some((round, line))
}

/// What the journal says.
#[derive(Debug)]
pub(super) struct Replayed<V> {
    /// The last complete round.
    pub(super) round: u64,
    /// The records after it.
    pub(super) records: HashMap<Vec<u8>, V>,
    /// The changes of the last complete round.
    pub(super) last: Vec<Change>,
    /// The readable changes of a round after it whose end is missing.
    pub(super) unfinished: Vec<Change>,
    /// What cannot be read, in words.
    pub(super) damage: Vec<String>,
    /// Unreadable bytes at the end.
    pub(super) tail: u64,
    number: u64,
    end: u64,
    base: u64,
}

impl<V> Replayed<V> {
    /// Returns the same with something else kept of each record.
    pub(super) fn with<W>(&self, records: HashMap<Vec<u8>, W>) -> Replayed<W> {
        let Self { round, ref last, ref unfinished, ref damage, tail, number, end, base, .. } = *self;
        let (last, unfinished, damage) = (last.clone(), unfinished.clone(), damage.clone());
        Replayed { round, records, last, unfinished, damage, tail, number, end, base }
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.log"))
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the journal in `folder`. `keep` makes of a value what is kept of it. Returns None if there is no journal.
pub(super) fn replay<V>(folder: &Path, keep: impl Fn(&[u8], &[u8]) -> V) -> io::Result<Option<Replayed<V>>> {
    let Some(number) = numbers(folder)?.pop() else { return Ok(None) };
    let file = path(folder, number);
    let mut state = Replayed {
        round: 0,
        records: HashMap::new(),
        last: Vec::new(),
        unfinished: Vec::new(),
        damage: Vec::new(),
        tail: 0,
        number,
        end: 0,
        base: 0,
    };
    let mut is_first = true;
    let mut under_way: Option<u64> = None;
    let mut complete_to = 0;
    let mut told = Vec::new();
    let reader = BufReader::with_capacity(1 << 18, File::open(&file)?);
    let found = lines::scan(reader, 0, |at, text| {
        let after = at + text.len() as u64 + 10;
        let Some((round, line)) = decode(text) else {
            return told.push(format!("the line at byte {at} is not of a known form"));
        };
        if under_way.is_some_and(|known| known != round) {
            // The end of the round before is missing, but a later one follows, so it was complete.
            let changes = std::mem::take(&mut state.unfinished);
            told.push(format!("the end of round {} cannot be read", under_way.unwrap_or_default()));
            apply(&mut state.records, &changes, &keep);
        }
        under_way = Some(round);
        match line {
            Line::Change(key, value) => state.unfinished.push((key, value.map(<[u8]>::to_vec))),
            Line::End(count) => {
                let changes = std::mem::take(&mut state.unfinished);
                if changes.len() as u64 != count {
                    told.push(format!("round {round} has {count} changes, but {} can be read", changes.len()));
                }
                if !is_first && round != state.round + 1 {
                    told.push(format!("round {round} follows round {}", state.round));
                }
                apply(&mut state.records, &changes, &keep);
                (state.round, under_way, complete_to) = (round, None, after);
                // The first round contains all records, which are no change.
                state.last = if is_first { Vec::new() } else { changes };
                if is_first {
                    state.base = after;
                }
                is_first = false;
            }
        }
    })?;
    let unreadable = |Damage { at, length }: &Damage| format!("{length} bytes at byte {at} cannot be read");
    let within = found.damaged.iter().filter(|damage| damage.at < complete_to);
    state.damage = within.map(unreadable).chain(told).map(|what| format!("{}: {what}", file.display())).collect();
    if is_first {
        state.damage.push(format!("{}: its first round cannot be read", file.display()));
    }
    state.end = complete_to;
    state.tail = std::fs::metadata(&file)?.len().saturating_sub(complete_to);
    Ok(Some(state))
}

fn apply<V, S: BuildHasher>(
    records: &mut HashMap<Vec<u8>, V, S>,
    changes: &[Change],
    keep: impl Fn(&[u8], &[u8]) -> V,
) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(records.insert(key.clone(), keep(key, value))),
            None => drop(records.remove(key)),
        }
    }
}

/// The open journal. The commit thread owns it.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    number: u64,
    file: File,
    /// Length of the file, and of its first round.
    end: u64,
    base: u64,
    /// The last round.
    round: u64,
}

impl Journal {
    /// Writes a new journal file with all records, and removes older files. `round` is the round of the records.
    pub(super) fn write<'a>(
        folder: &Path,
        round: u64,
        records: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, StoreError> {
        let before = numbers(folder)?;
        let number = before.last().copied().unwrap_or(0) + 1;
        let bytes = encode(round, records.map(|(key, value)| (key, Some(value))))?;
        let file = path(folder, number);
        write_durably(&file, &bytes, 0o600)?;
        for old in before {
            std::fs::remove_file(path(folder, old))?;
        }
        let opened = OpenOptions::new().read(true).write(true).mode(0o600).open(file)?;
        let base = bytes.len() as u64;
        Ok(Self { folder: folder.to_owned(), number, file: opened, end: base, base, round })
    }

    /// Opens the journal that was replayed, cuts off what follows its last complete round, and removes older files.
    pub(super) fn resume<V>(folder: &Path, replayed: &Replayed<V>) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(path(folder, replayed.number))?;
        if replayed.tail > 0 {
            tracing::info!(bytes = replayed.tail, "a change that a crash interrupted was removed from the journal");
            file.set_len(replayed.end)?;
            file.sync_all()?;
        }
        for old in numbers(folder)?.into_iter().filter(|number| *number < replayed.number) {
            std::fs::remove_file(path(folder, old))?;
        }
        sync_folder(folder)?;
        let Replayed { number, end, base, round, .. } = *replayed;
        Ok(Self { folder: folder.to_owned(), number, file, end, base, round })
    }

    /// Appends a round and syncs it. After a failure the file is as it was before, or the journal cannot be used: then
    /// the second value is true.
    pub(super) fn append(&mut self, changes: &[Change]) -> Result<(), (StoreError, bool)> {
        let round = self.round + 1;
        let bytes = encode(round, changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())));
        let bytes = bytes.map_err(|error| (error.into(), false))?;
        if let Err(error) = self.file.write_all_at(&bytes, self.end).and_then(|()| self.file.sync_data()) {
            let cut = self.file.set_len(self.end).and_then(|()| self.file.sync_data());
            return Err((error.into(), cut.is_err()));
        }
        (self.round, self.end) = (round, self.end + bytes.len() as u64);
        Ok(())
    }

    /// Returns whether it is time to write the next file.
    pub(super) fn is_long(&self) -> bool {
        self.end >= REPLACE_BYTES_MIN.max(self.base.saturating_mul(GROWTH_MAX))
    }

    /// Writes the next file, which begins with these records.
    pub(super) fn replace<'a>(
        &mut self,
        records: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), StoreError> {
        *self = Self::write(&self.folder, self.round, records)?;
        tracing::debug!(number = self.number, "the journal was written anew");
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Records = BTreeMap<Vec<u8>, Vec<u8>>;

    fn write_rounds(folder: &Path, rounds: &[Vec<Change>]) -> Records {
        let mut journal = Journal::write(folder, 0, std::iter::empty()).unwrap();
        let mut records = Records::new();
        for (number, changes) in rounds.iter().enumerate() {
            journal.append(changes).unwrap();
            for (key, value) in changes {
                match value {
                    Some(value) => drop(records.insert(key.clone(), value.clone())),
                    None => drop(records.remove(key)),
                }
            }
            if number % 3 == 2 {
                journal.replace(records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))).unwrap();
            }
        }
        records
    }

    fn read(folder: &Path) -> Replayed<Vec<u8>> {
        replay(folder, |_, value| value.to_vec()).unwrap().unwrap()
    }

    fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
        let key =
            prop_oneof!["[%a-c/]{1,3}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 1..3)];
        let value = proptest::option::of("[ -~]{0,9}".prop_map(String::into_bytes));
        proptest::collection::vec(proptest::collection::vec((key, value), 1..4), 0..9)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However the journal was written anew meanwhile, and wherever a crash cut it in its last round.
        #[test]
        fn rounds_are_read_as_they_were_written_and_a_torn_one_is_none(rounds in changes(), cut in 1..60_u64) {
            let folder = tempfile::tempdir().unwrap();
            let records = write_rounds(folder.path(), &rounds);
            let replayed = read(folder.path());
            prop_assert!(replayed.damage.is_empty() && replayed.tail == 0);
            prop_assert_eq!(replayed.round, rounds.len() as u64);
            prop_assert_eq!(&replayed.records.into_iter().collect::<Records>(), &records);
            let mut journal = Journal::resume(folder.path(), &read(folder.path())).unwrap();
            let before = journal.end;
            journal.append(&[(b"new".to_vec(), Some(b"1".to_vec()))]).unwrap();
            let torn = before + (journal.end - before).saturating_sub(cut);
            journal.file.set_len(torn).unwrap();
            let replayed = read(folder.path());
            prop_assert!(replayed.damage.is_empty(), "{:?}", replayed.damage);
            prop_assert_eq!(replayed.round, rounds.len() as u64);
            prop_assert_eq!(replayed.records.into_iter().collect::<Records>(), records);
        }

        #[test]
        fn a_flipped_bit_is_told_or_takes_the_last_round(rounds in changes(), bit in any::<prop::sample::Index>()) {
            let folder = tempfile::tempdir().unwrap();
            let records = write_rounds(folder.path(), &rounds);
            let file = path(folder.path(), numbers(folder.path()).unwrap().pop().unwrap());
            let mut bytes = std::fs::read(&file).unwrap();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&file, bytes).unwrap();
            let replayed = read(folder.path());
            let is_whole = replayed.round == rounds.len() as u64;
            prop_assert!(!replayed.damage.is_empty() || !is_whole);
            if replayed.damage.is_empty() {
                prop_assert_eq!(replayed.round + 1, rounds.len() as u64, "only the last round can look unfinished");
            } else {
                // Whatever is left was written once.
                let written: Vec<&Change> = rounds.iter().flatten().collect();
                for (key, value) in &replayed.records {
                    prop_assert!(records.get(key) == Some(value)
                        || written.iter().any(|(k, v)| k == key && v.as_ref() == Some(value)));
                }
            }
        }
    }
}
