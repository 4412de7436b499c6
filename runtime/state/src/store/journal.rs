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

use crate::lines::{self, Damage, LINE_BYTES_MAX};
use crate::store::error::StoreError;
use crate::store::files::sync_folder;
use crate::store::space::{self, COMMIT_BYTES_MIN};
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

/// Bytes of a line after its text: a tab, the checksum, and the line feed.
const LINE_END_BYTES: u64 = 10;

/// Name of a file that is being written.
const BESIDE: &str = "next";

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
        let length = (out.len() - start) as u64 + LINE_END_BYTES;
        if length > LINE_BYTES_MAX {
            return Err(io::Error::other(format!(
                "a record takes {length} bytes; at most {LINE_BYTES_MAX} can be stored"
            )));
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
    /// A description of each part that cannot be read.
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

/// Returns whether there is a journal in `folder`.
pub(super) fn is_there(folder: &Path) -> io::Result<bool> {
    Ok(!numbers(folder)?.is_empty())
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
    let mut reading =
        Reading { state: &mut state, is_first: true, suspect: None, under_way: None, complete_to: 0, told: Vec::new() };
    let reader = BufReader::with_capacity(1 << 18, File::open(&file)?);
    let found = lines::scan(reader, 0, |at, text| reading.line(at, text, &keep))?;
    let Reading { is_first, suspect, complete_to, told, .. } = reading;
    if let Some(suspect) = suspect {
        // Nothing follows it, so a power cut may have left it incomplete. If it was acknowledged, the database has it.
        state.unfinished = suspect.changes;
    }
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

/// A round whose end says another number of changes than can be read.
struct SuspectRound {
    round: u64,
    count: u64,
    end: u64,
    changes: Vec<Change>,
}

/// The state of a replay.
struct Reading<'a, V> {
    state: &'a mut Replayed<V>,
    is_first: bool,
    suspect: Option<SuspectRound>,
    /// The round whose changes are being read.
    under_way: Option<u64>,
    /// Offset after the last complete round.
    complete_to: u64,
    told: Vec<String>,
}

impl<V> Reading<'_, V> {
    fn line(&mut self, at: u64, text: &[u8], keep: &impl Fn(&[u8], &[u8]) -> V) {
        let after = at + text.len() as u64 + LINE_END_BYTES;
        let Some((round, line)) = decode(text) else {
            return self.told.push(format!("the line at byte {at} is not of a known form"));
        };
        if let Some(SuspectRound { round, count, end, changes }) = self.suspect.take() {
            // A later round follows, so it was complete once.
            self.told.push(format!("round {round} has {count} changes, but {} can be read", changes.len()));
            self.complete(round, end, changes, keep);
        }
        if let Some(known) = self.under_way.filter(|known| *known != round) {
            let changes = std::mem::take(&mut self.state.unfinished);
            self.told.push(format!("the end of round {known} cannot be read"));
            apply(&mut self.state.records, &changes, keep);
        }
        self.under_way = Some(round);
        match line {
            Line::Change(key, value) => self.state.unfinished.push((key, value.map(<[u8]>::to_vec))),
            Line::End(count) => {
                let changes = std::mem::take(&mut self.state.unfinished);
                self.under_way = None;
                if changes.len() as u64 == count {
                    self.complete(round, after, changes, keep);
                } else {
                    self.suspect = Some(SuspectRound { round, count, end: after, changes });
                }
            }
        }
    }

    fn complete(&mut self, round: u64, end: u64, changes: Vec<Change>, keep: &impl Fn(&[u8], &[u8]) -> V) {
        if !self.is_first && round != self.state.round + 1 {
            self.told.push(format!("round {round} follows round {}", self.state.round));
        }
        apply(&mut self.state.records, &changes, keep);
        (self.state.round, self.complete_to) = (round, end);
        // The first round contains all records, which are no change.
        self.state.last = if self.is_first { Vec::new() } else { changes };
        if self.is_first {
            self.state.base = end;
        }
        self.is_first = false;
    }
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
    /// Length at which the next try to replace it is due, after one failed.
    next_replacement: u64,
    /// The last round.
    round: u64,
}

fn write_beside(beside: &Path, bytes: &[u8]) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(beside)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    Ok(file)
}

impl Journal {
    /// Writes a new journal file with all records, and removes older files. `round` is the round of the records. The
    /// second value of an error says whether the new file has its name already: then the old one may not be used.
    pub(super) fn write<'a>(
        folder: &Path,
        round: u64,
        records: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, (StoreError, bool)> {
        let harmless = |error: io::Error| (error.into(), false);
        let before = numbers(folder).map_err(harmless)?;
        let number = before.last().copied().unwrap_or(0) + 1;
        let bytes = encode(round, records.map(|(key, value)| (key, Some(value)))).map_err(harmless)?;
        if space::free(folder).map_err(harmless)? < COMMIT_BYTES_MIN.saturating_add(bytes.len() as u64) {
            return Err((StoreError::Full, false));
        }
        let beside = folder.join(BESIDE);
        let written = write_beside(&beside, &bytes);
        let file = written.inspect_err(|_| drop(std::fs::remove_file(&beside))).map_err(harmless)?;
        std::fs::rename(&beside, path(folder, number)).map_err(harmless)?;
        sync_folder(folder).map_err(|error| (error.into(), true))?;
        let base = bytes.len() as u64;
        let journal = Self { folder: folder.to_owned(), number, file, end: base, base, next_replacement: 0, round };
        journal.remove_others();
        Ok(journal)
    }

    /// Removes other files than this one. What stays is removed at the next start.
    fn remove_others(&self) {
        let others = numbers(&self.folder).into_iter().flatten().filter(|number| *number != self.number);
        let files = others.map(|number| path(&self.folder, number)).chain([self.folder.join(BESIDE)]);
        for file in files {
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %file.display(), %error, "an old file of the journal could not be removed");
            }
        }
    }

    /// Opens the journal that was replayed, cuts off what follows its last complete round, and removes older files.
    pub(super) fn resume<V>(folder: &Path, replayed: &Replayed<V>) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(path(folder, replayed.number))?;
        if replayed.tail > 0 {
            tracing::info!(bytes = replayed.tail, "a change that a crash interrupted was removed from the journal");
            file.set_len(replayed.end)?;
        }
        // An earlier run may have written it and not synced it.
        file.sync_all()?;
        sync_folder(folder)?;
        let Replayed { number, end, base, round, .. } = *replayed;
        let journal = Self { folder: folder.to_owned(), number, file, end, base, next_replacement: 0, round };
        journal.remove_others();
        Ok(journal)
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
        self.end >= REPLACE_BYTES_MIN.max(self.base.saturating_mul(GROWTH_MAX)).max(self.next_replacement)
    }

    /// Writes the next file, which begins with these records. The second value of an error says whether this journal may
    /// not be used any more.
    pub(super) fn replace<'a>(
        &mut self,
        records: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), (StoreError, bool)> {
        // If it fails, each try would read the whole database, so the next one waits.
        self.next_replacement = self.end.saturating_add(self.end / 2);
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

        /// A power cut may lose any part of the last write, also in its middle.
        #[test]
        fn a_last_round_with_a_hole_is_none(rounds in changes(), hole in any::<prop::sample::Index>()) {
            let folder = tempfile::tempdir().unwrap();
            let records = write_rounds(folder.path(), &rounds);
            let mut journal = Journal::resume(folder.path(), &read(folder.path())).unwrap();
            let before = journal.end;
            let last: Vec<Change> = (0..9).map(|at| (format!("new/{at}").into_bytes(), Some(vec![b'x'; 40]))).collect();
            journal.append(&last).unwrap();
            let at = before + hole.index((journal.end - before) as usize) as u64;
            let zeros = vec![0; 60.min(journal.end - at) as usize];
            journal.file.write_all_at(&zeros, at).unwrap();
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
