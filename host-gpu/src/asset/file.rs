//! The bytes of an asset, read by position, and the assets of a version by name.

use crate::error::Error;
use std::collections::BTreeMap;
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
    pub(crate) fn check_range(&self, what: &str, offset: u64, size: u64) -> Result<(), Error> {
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
        self.check_range("read", offset, size)?;
        if size > READ_BYTES_MAX {
            return Err(Error::TooLarge(format!("{size} bytes in one read; the most is {READ_BYTES_MAX}")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        read_at(&self.file, &mut bytes, offset).map_err(|error| unreadable(&error))?;
        Ok(bytes)
    }
}

/// Assets by the names under which a version knows them.
pub type AssetCatalog = BTreeMap<String, Arc<AssetFile>>;

/// An asset that a guest has opened.
#[derive(Debug, Clone)]
pub struct Asset(Arc<AssetFile>);

impl Asset {
    /// Opens an asset of the version.
    pub fn open(assets: &AssetCatalog, name: &str) -> Result<Self, Error> {
        let found = assets.get(name);
        found.map(|file| Self(Arc::clone(file))).ok_or_else(|| {
            let names: Vec<&str> = assets.keys().map(String::as_str).collect();
            Error::NotFound(format!("no asset {name:?} belongs to this version; those that do are {names:?}"))
        })
    }

    /// The file.
    pub fn file(&self) -> &Arc<AssetFile> {
        &self.0
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
