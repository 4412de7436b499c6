//! Judges the bytes after the last whole line of a segment: a crash interrupted a write there, or they are damaged.
//!
//! ```text
//!  no line feed behind the last whole line ─▶ a crash interrupted a write: cut off, nothing to report
//!  only the line feed is wrong             ─▶ it is put back
//!  anything else                           ─▶ damage: it stays, and the next line begins behind it
//! ```

use super::disk::Disk;
use crate::lines;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The bytes after the last whole line of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// The beginning of a line that a crash interrupted, from here on. It was never acknowledged.
    Torn(u64),
    /// A line of which only the line feed at this offset is damaged.
    NoLineFeed(u64),
    /// Nothing. Whole lines before it may be damaged.
    Clean,
}

/// Tells what is behind the last line. `found` is what a scan of the whole file found.
pub fn tail(file: &File, found: &lines::Scan) -> io::Result<Tail> {
    let mut bytes = vec![0; usize::try_from(found.tail).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, found.end)?;
    // Damaged lines with their line feeds come first, then the beginning of a line.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = bytes.get(whole..).unwrap_or_default();
    let Some((_, line)) = rest.split_last() else { return Ok(Tail::Clean) };
    if lines::unseal(line).is_some() {
        return Ok(Tail::NoLineFeed(found.end + found.tail - 1));
    }
    Ok(Tail::Torn(found.end + whole as u64))
}

/// Prepares the open segment for appending, and returns where the next line goes. What a crash interrupted is cut off,
/// unless it begins before `kept_to`, up to which lines were acknowledged: then a line feed ends it.
pub fn end_for_appending(disk: &Disk, file: &File, found: &lines::Scan, tail: Tail, kept_to: u64) -> io::Result<u64> {
    let end = found.end + found.tail;
    match tail {
        Tail::Clean => Ok(end),
        Tail::NoLineFeed(at) => {
            file.write_all_at(b"\n", at)?;
            file.sync_all()?;
            Ok(end)
        }
        Tail::Torn(at) if at >= kept_to => {
            disk.cut(file, at)?;
            Ok(at)
        }
        Tail::Torn(_) => {
            file.write_all_at(b"\n", end)?;
            file.sync_all()?;
            Ok(end + 1)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::segments::scan;

    #[test]
    fn a_torn_end_is_cut_off_and_what_may_have_been_lines_stays() {
        let (disk, file) = (Disk::default(), tempfile::tempfile().unwrap());
        let mut bytes = Vec::new();
        for text in ["first", "second"] {
            let start = bytes.len();
            bytes.extend_from_slice(text.as_bytes());
            lines::seal(&mut bytes, start).unwrap();
        }
        let last = bytes.len() as u64;
        for (behind, kept) in [(&b"thi"[..], 0), (b"{}\t00000000\n", 12), (b"\0\0\n", 3), (b"\0\n12", 2)] {
            file.set_len(0).unwrap();
            file.write_all_at(&[bytes.as_slice(), behind].concat(), 0).unwrap();
            let found = scan(&file, 0, |_, _| {}).unwrap();
            let end = end_for_appending(&disk, &file, &found, tail(&file, &found).unwrap(), 0).unwrap();
            assert_eq!((end, file.metadata().unwrap().len()), (last + kept, last + kept));
        }
        // Nothing is cut off that was acknowledged.
        file.set_len(last).unwrap();
        file.write_all_at(b"{", last).unwrap();
        let found = scan(&file, 0, |_, _| {}).unwrap();
        let end = end_for_appending(&disk, &file, &found, tail(&file, &found).unwrap(), last + 1).unwrap();
        assert_eq!((end, file.metadata().unwrap().len()), (last + 2, last + 2));
        // A wrong line feed is put right.
        file.set_len(last).unwrap();
        file.write_all_at(b"x", last - 1).unwrap();
        let found = scan(&file, 0, |_, _| {}).unwrap();
        assert_eq!(tail(&file, &found).unwrap(), Tail::NoLineFeed(last - 1));
        end_for_appending(&disk, &file, &found, Tail::NoLineFeed(last - 1), 0).unwrap();
        assert_eq!(scan(&file, 0, |_, _| {}).unwrap(), lines::Scan { end: last, ..lines::Scan::default() });
    }
}
