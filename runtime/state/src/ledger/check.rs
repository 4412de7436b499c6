//! `gannet check` and `gannet repair`, for the ledger.

use super::line::{FORM, id_of};
use crate::lines::Damage;
use crate::segments::disk::Disk;
use crate::segments::index::{self, ENDING};
use crate::segments::{SegmentFolder, scan};
use crate::store::watermark::Watermark;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a check of the ledger found.
#[derive(Debug, Default)]
pub struct LedgerCheck {
    /// Lines that can be read.
    pub lines: u64,
    /// A description of each problem.
    pub findings: Vec<String>,
    /// Whether counted lines at the end are missing, so that a server does not start.
    is_short: bool,
    /// Damaged bytes, by segment.
    damaged: Vec<(u64, Damage)>,
    /// Segments with a wrong index.
    wrong_indexes: Vec<u64>,
}

fn segments(folder: &Path) -> SegmentFolder {
    SegmentFolder::new(folder, FORM.ending)
}

/// Replaces damaged bytes by a blank line of the same length.
fn blank(file: &File, damage: Damage) -> io::Result<()> {
    let mut line = vec![b' '; usize::try_from(damage.length).map_err(io::Error::other)?];
    if let Some(last) = line.last_mut() {
        *last = b'\n';
    }
    file.write_all_at(&line, damage.at)
}

/// Reads all segments in `folder`. `counted` is the position up to which lines are included in the stored sums.
pub fn check(folder: &Path, counted: Watermark) -> io::Result<LedgerCheck> {
    let mut found = LedgerCheck::default();
    let numbers = match segments(folder).numbers() {
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
        match found.check_segment(folder, *number) {
            Ok(length) if *number == counted.segment => counted_length = length,
            Ok(_) => {}
            Err(error) => found.findings.push(format!("ledger: segment {number} cannot be read: {error}")),
        }
    }
    if counted_length < counted.offset && numbers.last().is_none_or(|last| *last <= counted.segment) {
        found.is_short = true;
        let Watermark { segment, offset } = counted;
        found.findings.push(format!(
            "ledger: segment {segment} has {counted_length} bytes, but lines up to byte {offset} were counted; their \
             sums are kept, their receipts are lost"
        ));
    }
    Ok(found)
}

impl LedgerCheck {
    /// Whether a repair sets bytes aside.
    pub fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Reads one segment, and returns its length.
    fn check_segment(&mut self, folder: &Path, number: u64) -> io::Result<u64> {
        let file = File::open(segments(folder).path(number))?;
        let scanned = scan(&file, 0, |_, text| self.lines += u64::from(id_of(text).is_some()))?;
        let mut damaged = scanned.damaged;
        let mut tail = vec![0; usize::try_from(scanned.tail).map_err(io::Error::other)?];
        file.read_exact_at(&mut tail, scanned.end)?;
        // Without a line feed it can only be the beginning of a line that a crash interrupted.
        if tail.contains(&b'\n') {
            damaged.push(Damage { at: scanned.end, length: scanned.tail });
        }
        for damage in damaged {
            let Damage { at, length } = damage;
            self.findings.push(format!("ledger: segment {number}: {length} bytes at byte {at} cannot be read"));
            self.damaged.push((number, damage));
        }
        match std::fs::read(segments(folder).with_ending(number, ENDING)) {
            // The open segment has none, and a start makes one that is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            index => {
                let right = index::to_bytes(&index::entries(&file, id_of)?);
                if !index.is_ok_and(|index| index == right) {
                    self.findings.push(format!("ledger: the index of segment {number} is wrong"));
                    self.wrong_indexes.push(number);
                }
            }
        }
        Ok(scanned.end + scanned.tail)
    }

    /// Moves damaged bytes to the folder `aside`, removes wrong indexes, which a start makes anew, and lets the ledger go on in a new
    /// segment if counted lines at its end are lost. The stored sums still include those. Returns what was done.
    pub fn repair(&self, folder: &Path, aside: &Path, counted: Watermark) -> io::Result<Vec<String>> {
        let mut done = Vec::new();
        for (number, damage) in &self.damaged {
            let file = OpenOptions::new().read(true).write(true).open(segments(folder).path(*number))?;
            let mut bytes = vec![0; usize::try_from(damage.length).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, damage.at)?;
            let kept = aside.join(format!("ledger-{number}-{}", damage.at));
            crate::store::files::write_durably(&kept, &bytes, 0o600)?;
            blank(&file, *damage)?;
            file.sync_all()?;
            done.push(format!("{} damaged bytes of the ledger are in {}", damage.length, kept.display()));
        }
        for number in &self.wrong_indexes {
            std::fs::remove_file(segments(folder).with_ending(*number, ENDING))?;
            done.push(format!("the next start makes the index of segment {number} of the ledger anew"));
        }
        if self.is_short {
            Disk::default().create(&segments(folder).path(counted.segment + 1), b"")?;
            done.push("the ledger goes on in a new segment".into());
        }
        crate::store::files::sync_folder(folder)?;
        Ok(done)
    }
}
