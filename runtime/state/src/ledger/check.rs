//! `gannet check` and `gannet repair`, for the ledger.

use super::segment;
use crate::store::usage::Watermark;
use std::fs::File;
use std::io;
use std::path::Path;

/// What a check of the ledger found.
#[derive(Debug, Default)]
pub struct LedgerCheck {
    /// Lines that can be read.
    pub lines: u64,
    /// What is wrong, in words.
    pub findings: Vec<String>,
    /// Whether counted lines at the end are missing, so that a server does not start.
    pub is_short: bool,
}

/// Reads all segments in `folder`. `counted` is the position up to which lines are included in the stored sums.
pub fn check(folder: &Path, counted: Watermark) -> io::Result<LedgerCheck> {
    let mut found = LedgerCheck::default();
    let numbers = match segment::list(folder) {
        Ok(numbers) => numbers,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    for pair in numbers.windows(2) {
        if let [one, next] = pair
            && one + 1 != *next
        {
            found.findings.push(format!("ledger: segments {} to {} are missing", one + 1, next - 1));
        }
    }
    let mut counted_length = 0;
    for number in &numbers {
        let file = File::open(segment::path(folder, *number, "jsonl"))?;
        let scanned = segment::scan(&file, 0, |_, _| found.lines += 1)?;
        if *number == counted.segment {
            counted_length = scanned.end + scanned.tail;
        }
        let tail = (scanned.tail > 0).then_some((scanned.end, scanned.tail));
        for (at, bytes) in scanned.damaged.iter().map(|damage| (damage.at, damage.length)).chain(tail) {
            found.findings.push(format!("ledger: segment {number}: {bytes} bytes at byte {at} cannot be read"));
        }
    }
    let is_last = numbers.last().is_none_or(|last| *last <= counted.segment);
    if is_last && counted_length < counted.offset {
        found.is_short = true;
        let Watermark { segment, offset } = counted;
        found.findings.push(format!(
            "ledger: segment {segment} has {counted_length} bytes, but lines up to byte {offset} were counted; their \
             sums are kept, their receipts are lost"
        ));
    }
    Ok(found)
}

/// Lets the ledger go on in a new segment, after lines at its end were lost. The stored sums still include them.
pub fn go_on(folder: &Path, counted: Watermark) -> io::Result<()> {
    segment::open(folder, counted.segment + 1)?.sync_all()?;
    crate::store::files::sync_folder(folder)
}
