//! Large values of one machine, in files that are named after their digests: `FOLDER/ab/cd/abcd…`, or `FOLDER/abcd…`
//! where they are few.
//!
//! Invariant: a file with its final name is complete and on disk. It was written in a folder for incoming files, synced,
//! renamed, and its folder was synced. What is left among the incoming files at a start is removed.

use super::make_folder;
use crate::records::StoreFuture;
use crate::records::blobs::BlobStore;
use crate::store::files::sync_folder;
use crate::wait::blocking;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Length of a digest in hex.
const DIGEST_CHARS: usize = 64;

/// Blobs in files; see the module.
#[derive(Debug)]
pub struct LocalBlobs {
    inner: Arc<Inner>,
}

/// How files are named below the folder.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// In two levels of folders, because there may be as many as there are jobs.
    Fanned,
    /// In the folder itself, with an ending.
    Flat(&'static str),
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    layout: Layout,
    /// The folder for incoming files.
    incoming: PathBuf,
    /// Numbers incoming files.
    counter: Arc<AtomicU64>,
    /// The folders that are known to be on disk; at most 65,536.
    folders: Mutex<HashSet<PathBuf>>,
}

/// Returns a digest in hex.
pub(in crate::records) fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Whether a text is a digest in hex as this store writes it.
fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_CHARS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Turns the absence of a file into None.
fn if_found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl LocalBlobs {
    /// Opens the blobs in a folder, which is made if it is missing.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let incoming = folder.join("incoming");
        make_folder(&incoming)?;
        sync_folder(folder.parent().unwrap_or(Path::new("/")))?;
        for entry in std::fs::read_dir(&incoming)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(Self::with(folder.to_owned(), Layout::Fanned, incoming, Arc::default()))
    }

    /// Returns the blobs in the files of a folder whose names have an ending. The folder is made with the first of them.
    /// Whoever owns `incoming` empties it at a start; `counter` numbers the files in it.
    pub(super) fn flat(folder: PathBuf, ending: &'static str, incoming: PathBuf, counter: Arc<AtomicU64>) -> Self {
        Self::with(folder, Layout::Flat(ending), incoming, counter)
    }

    fn with(folder: PathBuf, layout: Layout, incoming: PathBuf, counter: Arc<AtomicU64>) -> Self {
        Self { inner: Arc::new(Inner { folder, layout, incoming, counter, folders: Mutex::default() }) }
    }

    async fn with_inner<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner)).await
    }
}

impl Inner {
    /// Returns the folder and the path of a blob. None if the digest is none.
    fn place(&self, digest: &str) -> Option<(PathBuf, PathBuf)> {
        let digest = Some(digest).filter(|digest| is_digest(digest))?;
        let (folder, name) = match self.layout {
            Layout::Fanned => (self.folder.join(digest.get(..2)?).join(digest.get(2..4)?), digest.to_owned()),
            Layout::Flat(ending) => (self.folder.clone(), format!("{digest}{ending}")),
        };
        let path = folder.join(name);
        Some((folder, path))
    }

    fn path(&self, digest: &str) -> Option<PathBuf> {
        self.place(digest).map(|(_, path)| path)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = digest_of(bytes);
        let (folder, path) = self.place(&digest).ok_or_else(|| io::Error::other("a digest has another form"))?;
        self.make_durable(&folder)?;
        // What is there already may be damaged; then it is replaced.
        if if_found(std::fs::read(&path))?.is_some_and(|known| known == bytes) {
            sync_folder(&folder)?;
            return Ok(digest);
        }
        self.move_in(&folder, &path, |incoming| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(incoming)?;
            file.write_all(bytes)?;
            file.sync_all()
        })?;
        Ok(digest)
    }

    fn put_file(&self, from: &Path, digest: &str) -> io::Result<()> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, format!("{digest} is no digest"));
        let (folder, path) = self.place(digest).ok_or_else(none)?;
        self.make_durable(&folder)?;
        // Over an older file of this name, whose bytes may be damaged by now.
        self.move_in(&folder, &path, |incoming| {
            if std::fs::hard_link(from, incoming).is_err() {
                // Not every file system has links.
                std::fs::copy(from, incoming)?;
            }
            File::open(incoming)?.sync_all()
        })
    }

    /// Has a file written among the incoming ones, and gives it its final path.
    fn move_in(&self, folder: &Path, path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let incoming = self.incoming.join(format!("blob-{number}"));
        let moved = write(&incoming).and_then(|()| std::fs::rename(&incoming, path));
        // After a failure the incomplete file is removed, because it would take space on a full disk. Renaming a link over
        // another link of the same file does nothing, and leaves it.
        let left = std::fs::remove_file(&incoming);
        moved?;
        if_found(left)?;
        sync_folder(folder)
    }

    /// Makes the folder of a blob, and makes sure that it is on disk.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let known = || self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(folder) {
            return Ok(());
        }
        make_folder(folder)?;
        let levels = match self.layout {
            Layout::Fanned => 2,
            Layout::Flat(_) => 1,
        };
        for above in folder.ancestors().skip(1).take(levels) {
            sync_folder(above)?;
        }
        known().insert(folder.to_owned());
        Ok(())
    }

    fn get(&self, digest: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = self.path(digest) else { return Ok(None) };
        let Some(bytes) = if_found(std::fs::read(path))? else { return Ok(None) };
        if digest_of(&bytes) != digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the blob {digest} is damaged")));
        }
        Ok(Some(bytes))
    }

    fn delete(&self, digest: &str) -> io::Result<()> {
        let Some((folder, path)) = self.place(digest) else { return Ok(()) };
        if if_found(std::fs::remove_file(path))?.is_some() {
            sync_folder(&folder)?;
        }
        Ok(())
    }

    fn size(&self, digest: &str) -> io::Result<Option<u64>> {
        let Some(path) = self.path(digest) else { return Ok(None) };
        Ok(if_found(std::fs::metadata(path))?.map(|metadata| metadata.len()))
    }

    fn local_file(&self, digest: &str) -> io::Result<Option<PathBuf>> {
        let is_there = self.size(digest)?.is_some();
        Ok(self.path(digest).filter(|_| is_there))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let (levels, ending) = match self.layout {
            Layout::Fanned => (2, ""),
            Layout::Flat(ending) => (0, ending),
        };
        let mut digests = Vec::new();
        let mut folders = vec![(self.folder.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = if_found(std::fs::read_dir(folder))?;
            for entry in entries.into_iter().flatten() {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if depth < levels && name.len() == 2 {
                    folders.push((entry.path(), depth + 1));
                } else if depth == levels {
                    digests.extend(name.strip_suffix(ending).filter(|name| is_digest(name)).map(ToOwned::to_owned));
                }
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }
}

impl BlobStore for LocalBlobs {
    fn put(&self, bytes: Vec<u8>) -> StoreFuture<'_, io::Result<String>> {
        Box::pin(self.with_inner(move |inner| inner.put(&bytes)))
    }

    fn put_file<'a>(&'a self, file: &'a Path, digest: &'a str) -> StoreFuture<'a, io::Result<()>> {
        let (file, digest) = (file.to_owned(), digest.to_owned());
        Box::pin(self.with_inner(move |inner| inner.put_file(&file, &digest)))
    }

    fn get<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<Vec<u8>>>> {
        let digest = digest.to_owned();
        Box::pin(self.with_inner(move |inner| inner.get(&digest)))
    }

    fn size<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<u64>>> {
        let digest = digest.to_owned();
        Box::pin(self.with_inner(move |inner| inner.size(&digest)))
    }

    fn local_file<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<PathBuf>>> {
        let digest = digest.to_owned();
        Box::pin(self.with_inner(move |inner| inner.local_file(&digest)))
    }

    fn delete<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<()>> {
        let digest = digest.to_owned();
        Box::pin(self.with_inner(move |inner| inner.delete(&digest)))
    }

    fn list(&self) -> StoreFuture<'_, io::Result<Vec<String>>> {
        Box::pin(self.with_inner(Inner::list))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_blob_is_not_returned_and_storing_it_again_heals_it() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = LocalBlobs::open(folder.path()).unwrap();
        let digest = blobs.put(b"pixels".to_vec()).await.unwrap();
        let path = blobs.inner.place(&digest).unwrap().1;
        std::fs::write(&path, b"pixelz").unwrap();
        assert_eq!(blobs.get(&digest).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(blobs.put(b"pixels".to_vec()).await.unwrap(), digest);
        assert_eq!(blobs.get(&digest).await.unwrap().as_deref(), Some(&b"pixels"[..]));
    }

    #[tokio::test]
    async fn a_start_removes_what_was_not_stored_completely() {
        let folder = tempfile::tempdir().unwrap();
        let digest = LocalBlobs::open(folder.path()).unwrap().put(b"a".to_vec()).await.unwrap();
        std::fs::write(folder.path().join("incoming/7"), b"half").unwrap();
        let blobs = LocalBlobs::open(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
        assert_eq!(blobs.list().await.unwrap(), [digest]);
    }
}
