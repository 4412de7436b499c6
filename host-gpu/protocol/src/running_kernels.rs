//! A file that names the kernels on the GPU.
//!
//! The GPU thread writes a note for each slice. The arbiter reads the notes when it kills the process, because a
//! process that hangs cannot report what it ran.

use std::fs::File;
use std::io;

/// Limit on the slices on the GPU at once. The second keeps the GPU busy while the result of the first is read.
pub const SLICES_IN_FLIGHT_MAX: usize = 2;
/// Limit on the kernels in one slice's note. Further kernels are left out.
const KERNELS_MAX: usize = 8;
/// Bytes of a source's hash.
const HASH: usize = 32;
/// Bytes of one slice's note: its number, the number of kernels, the hashes of their sources.
const NOTE: usize = 8 + KERNELS_MAX * HASH;

/// The side of the process that writes the file. Without a file it does nothing.
#[derive(Debug)]
pub struct RunningKernels(Option<File>);

impl RunningKernels {
    /// Makes a writer. The file is shared with the arbiter.
    pub fn new(file: Option<File>) -> Self {
        Self(file)
    }

    /// Records that slice `number`, with kernels of these source hashes, is about to be submitted.
    pub fn begins<'a>(&self, number: u32, sources: impl ExactSizeIterator<Item = &'a [u8; HASH]>) {
        let mut note = Vec::with_capacity(NOTE);
        note.extend(number.to_le_bytes());
        let noted = sources.take(KERNELS_MAX);
        note.extend(u32::try_from(noted.len()).unwrap_or(0).to_le_bytes());
        noted.for_each(|source| note.extend(source));
        self.write(number, &note);
    }

    /// Records that slice `number` is done.
    pub fn ends(&self, number: u32) {
        self.write(number, &[0; 8]);
    }

    fn write(&self, number: u32, note: &[u8]) {
        let Some(file) = &self.0 else { return };
        match write_at(file, note, note_offset(number)) {
            Ok(written) if written == note.len() => {}
            other => tracing::warn!(?other, "the running kernels could not be recorded"),
        }
    }
}

// Positioned reads and writes instead of seeking, because the two processes share the file's position.
#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, at)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, at)
}

fn note_offset(number: u32) -> u64 {
    (u64::from(number) % SLICES_IN_FLIGHT_MAX as u64) * NOTE as u64
}

/// Returns the source hashes of the kernels in the slice that has been on the GPU longest, as its process recorded
/// them. That process runs tenant code, so the hashes may only be used in decisions about its own tenant.
pub fn longest_running(file: &File) -> Vec<[u8; HASH]> {
    let slots = (0..SLICES_IN_FLIGHT_MAX).filter_map(|slot| {
        let mut note = [0; NOTE];
        let at = u64::try_from(slot * NOTE).ok()?;
        // A note that was never written in full is shorter.
        let mut read = 0;
        while let Ok(more @ 1..) = read_at(file, note.get_mut(read..)?, at + read as u64) {
            read += more;
        }
        let (number, rest) = note.split_first_chunk::<4>()?;
        let (count, hashes) = rest.split_first_chunk::<4>()?;
        let number = u32::from_le_bytes(*number);
        let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(0).min(KERNELS_MAX);
        (number > 0).then(|| (number, hashes.as_chunks::<HASH>().0.iter().take(count).copied().collect::<Vec<_>>()))
    });
    slots.min_by_key(|(number, _)| *number).map(|(_, hashes)| hashes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_slice_on_the_gpu_is_read_as_it_was_noted_until_it_ends() {
        let file = tempfile::tempfile().unwrap();
        assert!(longest_running(&file).is_empty());
        let notes = RunningKernels::new(Some(file.try_clone().unwrap()));
        notes.begins(1, [[1; HASH], [2; HASH]].iter());
        notes.begins(2, [[3; HASH]].iter());
        assert_eq!(longest_running(&file), [[1; HASH], [2; HASH]]);
        notes.ends(1);
        assert_eq!(longest_running(&file), [[3; HASH]]);
        notes.ends(2);
        assert!(longest_running(&file).is_empty());
    }
}
