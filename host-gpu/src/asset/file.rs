//! Asset files, which are read by position, and a version's assets by name.

use crate::error::Error;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

/// Limit of the bytes that a guest reads in one call.
pub const READ_BYTES_MAX: u64 = 64 << 20;

/// A file with an asset's bytes. The file is never changed.
#[derive(Debug)]
pub struct AssetFile {
    pub(super) file: File,
    size: u64,
    digest: String,
}

impl AssetFile {
    /// Wraps an open file of `size` bytes with the given digest.
    pub fn new(file: File, size: u64, digest: String) -> Arc<Self> {
        Arc::new(Self { file, size, digest })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of the bytes. The same digest means the same asset.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Checks that a range is inside the asset. `what` starts the message.
    pub(crate) fn check_range(&self, what: &str, offset: u64, size: u64) -> Result<(), Error> {
        match offset.checked_add(size) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::InvalidArgument(format!(
                "{what}: {size} bytes from offset {offset} pass the end of an asset of {} bytes",
                self.size
            ))),
        }
    }

    /// Reads a range into the host's memory.
    pub fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, Error> {
        self.check_range("read", offset, size)?;
        if size > READ_BYTES_MAX {
            return Err(Error::TooLarge(format!("{size} bytes in one read; the limit is {READ_BYTES_MAX}")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        read_at(&self.file, &mut bytes, offset).map_err(|error| unreadable(&error))?;
        Ok(bytes)
    }
}

/// A version's assets by name.
pub type AssetCatalog = BTreeMap<String, Arc<AssetFile>>;

/// An asset that a guest has opened.
#[derive(Debug, Clone)]
pub struct Asset(Arc<AssetFile>);

impl Asset {
    /// Opens the version's asset with that name.
    pub fn open(assets: &AssetCatalog, name: &str) -> Result<Self, Error> {
        let found = assets.get(name);
        found.map(|file| Self(Arc::clone(file))).ok_or_else(|| {
            let names: Vec<&str> = assets.keys().map(String::as_str).collect();
            Error::NotFound(format!("this version has no asset {name:?}; it has {names:?}"))
        })
    }

    /// The file with the asset's bytes.
    pub fn file(&self) -> &Arc<AssetFile> {
        &self.0
    }
}

/// Reads exactly `bytes.len()` bytes at a position. Concurrent reads of the same file are safe.
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
