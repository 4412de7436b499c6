//! Files of the ledger. A line is JSON, a tab, the CRC-32 of the JSON in hex, and a line feed. Lines are only appended.
//!
//! ```text
//!  DATA/ledger/0000000007.jsonl    sealed: never written again
//!  DATA/ledger/0000000007.idx      its ids (16 bytes) in order, each followed by its offset (8 bytes, little-endian)
//!  DATA/ledger/0000000008.jsonl    open: the last one
//! ```
//!
//! Damage makes only the lines unreadable that contain it. Damaged bytes stay in the file, and each start logs them. The
//! beginning of a line that a crash interrupted was never acknowledged, and is cut off.

use crate::lines;
use gannet_base::bill::LedgerLine;
use gannet_base::names::RequestId;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Seek};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Size of one entry of an index.
const INDEX_ENTRY_BYTES: u64 = 24;
/// Maximum length of a line. We write no longer ones, because the texts in a line are truncated.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Appends an encoded line to a buffer.
pub(super) fn encode(line: &LedgerLine, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    serde_json::to_writer(&mut *out, line)?;
    lines::seal(out, start)
}

fn decode(text: &[u8]) -> Option<LedgerLine> {
    serde_json::from_slice(lines::unseal(text)?).ok()
}

/// Returns the path of a segment's file. `ending` is `jsonl` or `idx`.
pub(super) fn path(folder: &Path, number: u64, ending: &str) -> PathBuf {
    folder.join(format!("{number:010}.{ending}"))
}

/// Returns the numbers of the segments in a folder, in ascending order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl")?.parse().ok());
        numbers.extend::<Option<u64>>(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a segment's file for reading and appending, or creates it.
pub(super) fn open(folder: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path(folder, number, "jsonl"))
}

/// Calls `each` for every line from offset `from` on. Returns where the last one ended, and what cannot be read.
pub(super) fn scan(file: &File, from: u64, mut each: impl FnMut(u64, LedgerLine)) -> io::Result<lines::Scan> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    reader.seek(io::SeekFrom::Start(from))?;
    // A line with the right checksum may have been acknowledged, even if this binary cannot parse it, so it is not cut
    // off.
    lines::scan(reader, from, |at, text| match serde_json::from_slice(text) {
        Ok(line) => each(at, line),
        Err(error) => tracing::error!(at, %error, "a line of the ledger cannot be parsed"),
    })
}

/// Replaces damaged bytes by a blank line of the same length.
pub(super) fn blank(file: &File, damage: lines::Damage) -> io::Result<()> {
    let mut line = vec![b' '; usize::try_from(damage.length).map_err(io::Error::other)?];
    if let Some(last) = line.last_mut() {
        *last = b'\n';
    }
    file.write_all_at(&line, damage.at)
}

/// Makes the entries of a segment's index.
pub(super) fn index_entries(file: &File) -> io::Result<Vec<(RequestId, u64)>> {
    let mut entries = Vec::new();
    scan(file, 0, |at, line| entries.push((line.id(), at)))?;
    entries.sort_unstable();
    Ok(entries)
}

/// Returns an index as its file has it.
pub(super) fn index_bytes(entries: &[(RequestId, u64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * 24);
    for (id, at) in entries {
        bytes.extend_from_slice(&id.to_bytes());
        bytes.extend_from_slice(&at.to_le_bytes());
    }
    bytes
}

/// Prepares a segment for appending, and returns where the next line goes. What follows the last line is cut off if it
/// can only be the beginning of a line that a crash interrupted. Anything else stays: there may have been lines in it,
/// and those before `counted` were. A last line of which only the line feed is damaged gets it back.
pub(super) fn end_for_appending(file: &File, found: &lines::Scan, counted: u64) -> io::Result<u64> {
    if found.tail == 0 {
        return Ok(found.end);
    }
    let mut tail = vec![0; usize::try_from(found.tail).map_err(io::Error::other)?];
    file.read_exact_at(&mut tail, found.end)?;
    let end = found.end + found.tail;
    let is_line = tail.split_last().is_some_and(|(_, line)| lines::unseal(line).is_some());
    if !is_line && !tail.contains(&b'\n') && found.end >= counted {
        file.set_len(found.end)?;
        file.sync_all()?;
        return Ok(found.end);
    }
    tracing::error!(
        at = found.end,
        bytes = found.tail,
        "the end of the ledger is damaged, or a crash interrupted a write"
    );
    let ends = tail.last() == Some(&b'\n');
    let next = if is_line || ends { end } else { end + 1 };
    file.write_all_at(b"\n", next - 1)?;
    file.sync_all()?;
    Ok(next)
}

/// Reads the line at an offset.
pub(super) fn line_at(file: &File, at: u64) -> io::Result<LedgerLine> {
    let mut found = None;
    let mut text = vec![0; usize::try_from(LINE_BYTES_MAX).unwrap_or(0)];
    let mut have = 0;
    while have < text.len() {
        let Some(rest) = text.get_mut(have..) else { break };
        let read = file.read_at(rest, at + have as u64)?;
        let fresh = rest.get(..read).and_then(|part| part.iter().position(|byte| *byte == b'\n'));
        if let Some(end) = fresh {
            found = text.get(..have + end).and_then(decode);
            break;
        }
        if read == 0 {
            break;
        }
        have += read;
    }
    found.ok_or_else(|| io::Error::other("a line of the ledger cannot be read"))
}

/// A sealed segment. Its files are opened only for a lookup, because there may be many segments.
#[derive(Debug)]
pub(super) struct SealedSegment {
    folder: PathBuf,
    number: u64,
    first: RequestId,
    last: RequestId,
    count: u64,
}

impl SealedSegment {
    /// Opens a sealed segment, and makes its index if a crash prevented that. Returns None if the segment has no lines.
    pub(super) fn open(folder: &Path, number: u64) -> io::Result<Option<Self>> {
        let index = match File::open(path(folder, number, "idx")) {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let lines = File::open(path(folder, number, "jsonl"))?;
                write_index(folder, number, index_entries(&lines)?)?
            }
            Err(error) => return Err(error),
        };
        let count = index.metadata()?.len() / INDEX_ENTRY_BYTES;
        let Some(end) = count.checked_sub(1) else { return Ok(None) };
        let (first, last) = (entry(&index, 0)?.0, entry(&index, end)?.0);
        Ok(Some(Self { folder: folder.to_owned(), number, first, last, count }))
    }

    /// Returns the line with this id, if it is in the segment.
    pub(super) fn get(&self, id: RequestId) -> io::Result<Option<LedgerLine>> {
        if id < self.first || id > self.last {
            return Ok(None);
        }
        let index = File::open(path(&self.folder, self.number, "idx"))?;
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let (found, at) = entry(&index, middle)?;
            match found.cmp(&id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return line_at(&File::open(path(&self.folder, self.number, "jsonl"))?, at).map(Some);
                }
            }
        }
        Ok(None)
    }
}

fn entry(index: &File, at: u64) -> io::Result<(RequestId, u64)> {
    let mut entry = [0; INDEX_ENTRY_BYTES as usize];
    index.read_exact_at(&mut entry, at * INDEX_ENTRY_BYTES)?;
    let (id, offset) = entry.split_at(16);
    let id = id.try_into().map_err(io::Error::other)?;
    let offset = offset.try_into().map_err(io::Error::other)?;
    Ok((RequestId::from_bytes(id), u64::from_le_bytes(offset)))
}

/// Writes the index of a segment durably: after a crash it is complete or missing.
pub(super) fn write_index(folder: &Path, number: u64, mut entries: Vec<(RequestId, u64)>) -> io::Result<File> {
    entries.sort_unstable();
    let bytes = index_bytes(&entries);
    let place = path(folder, number, "idx");
    crate::store::files::write_durably(&place, &bytes, 0o600)?;
    File::open(place)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::bill::Receipt;
    use gannet_base::bill::price::Price;
    use gannet_base::names::{FunctionName, TenantName};
    use std::io::Write;

    fn line() -> LedgerLine {
        let (tenant, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        LedgerLine::Request(Box::new(Receipt::open(RequestId::new(), tenant, function, 1, Price::default())))
    }

    #[test]
    fn a_torn_end_is_cut_off_and_whole_lines_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<LedgerLine> = (0..50).map(|_| line()).collect();
        let mut bytes = Vec::new();
        for line in &lines {
            encode(line, &mut bytes).unwrap();
        }
        let mut file = open(folder.path(), 3).unwrap();
        file.write_all(&bytes).unwrap();
        let last = bytes.len() as u64;
        for torn in [&b"{\"request\":{\"a\""[..], b"{}\t00000000\n", b"\0\0\0\0\n", &bytes[..40]] {
            file.set_len(last).unwrap();
            file.write_all_at(torn, last).unwrap();
            let mut seen = Vec::new();
            let found = scan(&file, 0, |_, line| seen.push(line)).unwrap();
            assert_eq!((found.end, found.tail), (last, torn.len() as u64));
            assert_eq!(seen, lines);
            // What could have been lines is kept.
            let kept = if torn.contains(&b'\n') { torn.len() as u64 } else { 0 };
            assert_eq!(end_for_appending(&file, &found, 0).unwrap(), last + kept);
            assert_eq!(file.metadata().unwrap().len(), last + kept);
        }
        // Nor is anything cut off that was counted.
        let found = scan(&file, 0, |_, _| {}).unwrap();
        assert_eq!(end_for_appending(&file, &found, last + 1).unwrap(), last);
        file.set_len(last).unwrap();
        file.write_all_at(b"{", last).unwrap();
        let found = scan(&file, 0, |_, _| {}).unwrap();
        assert_eq!(end_for_appending(&file, &found, last + 1).unwrap(), last + 2);
        assert_eq!(list(folder.path()).unwrap(), [3]);
        let sealed = SealedSegment::open(folder.path(), 3).unwrap().unwrap();
        for line in &lines {
            assert_eq!(sealed.get(line.id()).unwrap().as_ref(), Some(line));
        }
        assert!(sealed.get(RequestId::new()).unwrap().is_none());
    }

    #[test]
    fn damage_costs_its_own_line_and_a_damaged_line_feed_none() {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<LedgerLine> = (0..5).map(|_| line()).collect();
        let mut bytes = Vec::new();
        for line in &lines {
            encode(line, &mut bytes).unwrap();
        }
        let length = bytes.len();
        let middle = length / 2;
        bytes[middle] ^= 4;
        bytes[length - 1] ^= 4;
        let mut file = open(folder.path(), 1).unwrap();
        file.write_all(&bytes).unwrap();
        let found = scan(&file, 0, |_, _| {}).unwrap();
        assert_eq!((found.damaged.len(), found.tail > 0), (1, true));
        assert_eq!(end_for_appending(&file, &found, 0).unwrap(), length as u64);
        let mut seen = Vec::new();
        let found = scan(&file, 0, |_, line| seen.push(line)).unwrap();
        assert_eq!((found.damaged.len(), found.tail, found.end), (1, 0, length as u64));
        assert_eq!(seen, [&lines[..2], &lines[3..]].concat());
    }
}
