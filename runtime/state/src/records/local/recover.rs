//! Opens the segments: reads every line, and tells crashes from damage.
//!
//! ```text
//!  newest segment, at its end: no line feed   ─▶ a crash interrupted a write: cut off, nothing to report
//!  newest segment, at its end: only the line feed is wrong ─▶ it is put back
//!  anything else that cannot be read          ─▶ a finding: its commits are lost, all others are read
//! ```
//!
//! Damaged bytes stay where they are.

use super::format::{self, Line};
use super::index::{Index, Segment};
use super::segment::{self, segments, short};
use crate::lines::Scan;
use crate::segments::appender::Newest;
use crate::segments::disk::Disk;
use crate::segments::tail::{Tail, end_for_appending, tail};
use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Damage of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Offset of the first byte.
    pub at: u64,
    /// How many bytes.
    pub length: u64,
    /// What is wrong with them.
    pub what: &'static str,
}

impl Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, at, length, what } = self;
        write!(out, "{}: {length} bytes at offset {at}: {what}", file.display())
    }
}

const UNREADABLE: &str = "damaged; the commits in them are lost";
const UNKNOWN: &str = "a line that this version does not know; it was not read";
const MISSING: &str = "the file is missing; its records are lost";

/// The segments as they were opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) index: Index,
    pub(super) newest: Newest,
    pub(super) findings: Vec<Finding>,
}

/// Calls `each` for all lines of a segment from `from` on, and appends what cannot be read. The tail is left to the
/// caller.
fn read(
    path: &Path,
    file: &File,
    from: u64,
    findings: &mut Vec<Finding>,
    mut each: impl FnMut(u64, &Line<'_>) -> io::Result<()>,
) -> io::Result<Scan> {
    let (mut failed, mut unknown) = (None, Vec::new());
    let found = crate::segments::scan(file, from, |at, text| match format::parse(text) {
        Some(line) => failed = failed.take().or(each(at, &line).err()),
        None => unknown.push((at, text.len() as u64)),
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let finding = |at, length, what| Finding { file: path.to_owned(), at, length, what };
    findings.extend(unknown.into_iter().map(|(at, length)| finding(at, length, UNKNOWN)));
    findings.extend(found.damaged.iter().map(|damage| finding(damage.at, damage.length, UNREADABLE)));
    Ok(found)
}

/// Reports what is damaged behind the last line of a segment. Returns the rest of it.
fn judge_tail(
    path: &Path,
    file: &File,
    found: &Scan,
    is_newest: bool,
    findings: &mut Vec<Finding>,
) -> io::Result<Tail> {
    let tail = tail(file, found)?;
    let length = match tail {
        Tail::Torn(at) if is_newest => at - found.end,
        Tail::NoLineFeed(_) if is_newest => 0,
        _ => found.tail,
    };
    if length > 0 {
        findings.push(Finding { file: path.to_owned(), at: found.end, length, what: UNREADABLE });
    }
    Ok(tail)
}

/// Reports gaps in the numbers of segments: they are removed from the oldest one on, so there is none.
fn gaps(folder: &Path, numbers: &[u64]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, next) in numbers.iter().zip(numbers.iter().skip(1)) {
        for missing in number + 1..*next {
            findings.push(Finding { file: segments(folder).path(missing), at: 0, length: 0, what: MISSING });
        }
    }
    findings
}

/// Opens all segments, repairs the end of the newest one, and makes the first one if there is none.
pub(super) fn open(folder: &Path, disk: &Disk) -> io::Result<Opened> {
    let files = segments(folder);
    let numbers = files.numbers()?;
    let (mut index, mut findings, mut newest) = (Index::default(), gaps(folder, &numbers), None);
    for number in &numbers {
        let (path, short) = (files.path(*number), short(*number)?);
        let is_newest = numbers.last() == Some(number);
        let file = Arc::new(OpenOptions::new().read(true).write(is_newest).open(&path)?);
        let bytes = file.metadata()?.len();
        let found_before = findings.len();
        index.segments.insert(short, Segment { file: Arc::clone(&file), bytes, live_bytes: 0, damaged: false });
        let found = read(&path, &file, 0, &mut findings, |at, line| index.replay(short, at, line))?;
        let tail = judge_tail(&path, &file, &found, is_newest, &mut findings)?;
        if is_newest {
            let mut end = end_for_appending(disk, &file, &found, tail, 0)?;
            match tail {
                Tail::NoLineFeed(_) => {
                    read(&path, &file, found.end, &mut findings, |at, line| index.replay(short, at, line))?;
                }
                Tail::Torn(at) => {
                    let bytes = found.end + found.tail - at;
                    tracing::info!(file = %path.display(), bytes, "a write that a crash interrupted is cut off");
                }
                Tail::Clean => {}
            }
            if end == 0 {
                let line = segment::first_line(index.position)?;
                disk.append(&file, &line, 0)?;
                end = line.len() as u64;
            }
            newest = Some(Newest { number: *number, file, end });
        }
        if let Some(segment) = index.segments.get_mut(&short) {
            segment.damaged = findings.len() > found_before;
            segment.bytes = segment.file.metadata()?.len();
        }
    }
    let newest = match newest {
        Some(newest) => newest,
        None => {
            let line = segment::first_line(0)?;
            let (file, end) = (Arc::new(disk.create(&files.path(1), &line)?), line.len() as u64);
            let segment = Segment { file: Arc::clone(&file), bytes: end, live_bytes: 0, damaged: false };
            index.segments.insert(1, segment);
            Newest { number: 1, file, end }
        }
    };
    Ok(Opened { index, newest, findings })
}

/// Returns what is damaged, and changes nothing.
pub(super) fn check(folder: &Path) -> io::Result<Vec<Finding>> {
    let files = segments(folder);
    let numbers = files.numbers()?;
    let mut findings = gaps(folder, &numbers);
    for number in &numbers {
        let path = files.path(*number);
        let file = File::open(&path)?;
        let found = read(&path, &file, 0, &mut findings, |_, _| Ok(()))?;
        judge_tail(&path, &file, &found, numbers.last() == Some(number), &mut findings)?;
    }
    Ok(findings)
}
