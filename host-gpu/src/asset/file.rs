//! The bytes of an asset, read by position.

use crate::Error;
use std::fs::File;
use std::sync::Arc;

/// The most bytes that a guest reads in one call.
pub const READ_BYTES_MAX: u64 = 64 << 20;

/// An asset's bytes, in a file that is never changed.
#[derive(Debug)]
pub struct AssetFile {
    pub(super) file: File,
    size: u64,
    digest: String,
}

impl AssetFile {
    /// An asset in an open file of `size` bytes, known by its digest.
    pub fn new(file: File, size: u64, digest: String) -> Arc<Self> {
        Arc::new(Self { file, size, digest })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The name of its content.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Checks that a range lies inside.
    pub(super) fn check(&self, what: &str, offset: u64, size: u64) -> Result<(), Error> {
        match offset.checked_add(size) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::InvalidArgument(format!(
                "{what}: {size} bytes from offset {offset} pass the end of an asset of {} bytes",
                self.size
            ))),
        }
    }

    /// Reads a range on the CPU.
    pub fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, Error> {
        self.check("read", offset, size)?;
        if size > READ_BYTES_MAX {
            return Err(Error::TooLarge(format!("{size} bytes in one read; the most is {READ_BYTES_MAX}")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        read_at(&self.file, &mut bytes, offset).map_err(|error| unreadable(&error))?;
        Ok(bytes)
    }
}

/// Reads exactly that many bytes from a position, whatever others read meanwhile.
#[cfg(unix)]
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = bytes.split_at_mut(read).1;
                offset += read as u64;
            }
        }
    }
    Ok(())
}

pub(super) fn unreadable(error: &std::io::Error) -> Error {
    Error::NotFound(format!("the asset cannot be read: {error}"))
}
