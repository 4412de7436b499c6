//! Large values of one machine, in files that are named after their digests: `FOLDER/ab/cd/abcd…`.
//!
//! Invariant: a file with its final name is complete and on disk. It was written in `FOLDER/incoming`, synced, renamed,
//! and its folder was synced. What is left in `incoming` at a start is removed.

use super::make_folder;
use crate::records::StoreFuture;
use crate::records::blobs::BlobStore;
use crate::store::files::sync_folder;
use crate::wait::blocking;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::OpenOptions;
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

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Numbers incoming files.
    counter: AtomicU64,
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
        let inner = Inner { folder: folder.to_owned(), counter: AtomicU64::new(0), folders: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// Returns the folder and the path of a blob. None if the digest is none.
    fn place(&self, digest: &str) -> Option<(PathBuf, PathBuf)> {
        let digest = Some(digest).filter(|digest| is_digest(digest))?;
        let folder = self.folder.join(digest.get(..2)?).join(digest.get(2..4)?);
        let path = folder.join(digest);
        Some((folder, path))
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
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let incoming = self.folder.join("incoming").join(number.to_string());
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&incoming)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&incoming, &path)
        };
        // After a failure the incomplete file is removed, because it would take space on a full disk.
        write().inspect_err(|_| drop(std::fs::remove_file(&incoming)))?;
        sync_folder(&folder)?;
        Ok(digest)
    }

    /// Makes the folder of a blob, and makes sure that it is on disk.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let known = || self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(folder) {
            return Ok(());
        }
        make_folder(folder)?;
        for above in folder.ancestors().skip(1).take(2) {
            sync_folder(above)?;
        }
        known().insert(folder.to_owned());
        Ok(())
    }

    fn get(&self, digest: &str) -> io::Result<Option<Vec<u8>>> {
        let Some((_, path)) = self.place(digest) else { return Ok(None) };
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

    fn list(&self) -> io::Result<Vec<String>> {
        let mut digests = Vec::new();
        let mut folders = vec![(self.folder.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if depth < 2 && name.len() == 2 {
                    folders.push((entry.path(), depth + 1));
                } else if depth == 2 && is_digest(&name) {
                    digests.push(name);
                }
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }
}

impl BlobStore for LocalBlobs {
    fn put(&self, bytes: Vec<u8>) -> StoreFuture<'_, io::Result<String>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || inner.put(&bytes)))
    }

    fn get<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<Vec<u8>>>> {
        let (inner, digest) = (Arc::clone(&self.inner), digest.to_owned());
        Box::pin(blocking(move || inner.get(&digest)))
    }

    fn delete<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<()>> {
        let (inner, digest) = (Arc::clone(&self.inner), digest.to_owned());
        Box::pin(blocking(move || inner.delete(&digest)))
    }

    fn list(&self) -> StoreFuture<'_, io::Result<Vec<String>>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || inner.list()))
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
