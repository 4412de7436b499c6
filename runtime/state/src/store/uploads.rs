//! Uploads of assets. Ranges are appended to a file; the file's name says how many bytes are on disk.
//!
//! ```text
//!  begin ─▶ DATA/uploads/{tenant}/{asset}~{size}~{received}~{digest or -}
//!             │ append: write, sync, rename to the new `received`, sync the folder ─▶ acknowledged
//!             └ received = size: hash, compare, store as a blob ─▶ name it ─▶ remove the upload
//! ```
//!
//! Invariants: the first `received` bytes are on disk. Bytes that a crash left beyond them are cut off when the upload
//! is resumed. The upload is removed after the asset has its name, so a crash in between loses nothing: a start finishes
//! uploads whose bytes have all arrived. The space of an upload is taken when it begins.

use crate::store::error::StoreError;
use crate::store::files::{Files, sync_folder};
use crate::store::space::claim;
use gannet_base::names::{AssetName, TenantName};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An upload that nobody continues for this long is removed.
const UPLOAD_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Size of the buffer for hashing an upload.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// An upload, as the name of its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Name that the asset will have.
    pub asset: AssetName,
    /// Size of the complete asset in bytes.
    pub size: u64,
    /// Bytes that are on disk.
    pub received: u64,
    /// SHA-256 that the asset must have, in hex. None if the client has not sent it.
    pub digest: Option<String>,
}

impl Upload {
    fn file_name(&self) -> String {
        let digest = self.digest.as_deref().unwrap_or("-");
        format!("{}~{}~{}~{digest}", self.asset, self.size, self.received)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('~');
        let asset = AssetName::new(parts.next()?).ok()?;
        let (size, received) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let digest = parts.next().filter(|digest| *digest != "-").map(ToOwned::to_owned);
        Some(Self { asset, size, received, digest })
    }
}

/// An upload that is being written to.
#[derive(Debug)]
pub struct UploadWriter {
    upload: Upload,
    folder: PathBuf,
    file: File,
    /// Size of the file, which includes bytes that are not synced yet.
    written: u64,
}

/// A complete asset that is not stored yet.
#[derive(Debug)]
pub struct ReceivedAsset {
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
    /// File of the upload. It stays, until [`Files::drop_upload`], in case a crash leaves the asset without a name.
    pub path: PathBuf,
}

fn make_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Files {
    fn uploads_folder(&self, tenant: &TenantName) -> PathBuf {
        self.data().join("uploads").join(tenant.as_str())
    }

    /// Returns the unfinished uploads of a tenant. Removes those that nobody has continued for a day.
    pub fn uploads(&self, tenant: &TenantName) -> Vec<Upload> {
        let folder = std::fs::read_dir(self.uploads_folder(tenant));
        let mut uploads = Vec::new();
        for entry in folder.into_iter().flatten().flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| self.trusted_time.age_of(modified));
            if age.is_some_and(|age| age > UPLOAD_RETENTION) {
                // If this fails, the next call tries again.
                let _ = std::fs::remove_file(entry.path());
                continue;
            }
            uploads.extend(entry.file_name().to_str().and_then(Upload::parse));
        }
        uploads
    }

    /// Begins a new upload. An unfinished upload of the same asset is dropped.
    pub fn begin_upload(&self, tenant: &TenantName, upload: Upload) -> Result<UploadWriter, StoreError> {
        self.drop_upload(tenant, &upload.asset);
        let folder = self.uploads_folder(tenant);
        make_folder(&folder)?;
        let path = folder.join(upload.file_name());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        claim(&file, upload.size).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
        Ok(UploadWriter { upload, folder, file, written: 0 })
    }

    /// Opens an unfinished upload to append to it, after its last acknowledged byte.
    pub fn resume_upload(&self, tenant: &TenantName, upload: Upload) -> Result<UploadWriter, StoreError> {
        let folder = self.uploads_folder(tenant);
        let mut file = OpenOptions::new().read(true).write(true).open(folder.join(upload.file_name()))?;
        file.set_len(upload.received)?;
        claim(&file, upload.size).inspect_err(|_| drop(file.set_len(upload.received)))?;
        file.seek(SeekFrom::End(0))?;
        let written = upload.received;
        Ok(UploadWriter { upload, folder, file, written })
    }

    /// Removes the unfinished upload of an asset, if there is one.
    pub fn drop_upload(&self, tenant: &TenantName, asset: &AssetName) {
        let folder = self.uploads_folder(tenant);
        for upload in self.uploads(tenant).iter().filter(|upload| upload.asset == *asset) {
            let _ = std::fs::remove_file(folder.join(upload.file_name()));
            // After a power cut it would come back, and be finished, although the asset has other bytes by then.
            let _ = sync_folder(&folder);
        }
    }
}

impl UploadWriter {
    /// Returns how many bytes are still missing.
    pub fn left(&self) -> u64 {
        self.upload.size.saturating_sub(self.written)
    }

    /// Appends bytes. The caller passes no more than [`UploadWriter::left`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the written bytes durable, and returns the upload with its new `received`. Blocks.
    pub fn sync(&mut self) -> Result<Upload, StoreError> {
        self.file.sync_all()?;
        let before = self.folder.join(self.upload.file_name());
        self.upload.received = self.written;
        std::fs::rename(before, self.folder.join(self.upload.file_name()))?;
        sync_folder(&self.folder)?;
        if let Some(above) = self.folder.parent() {
            sync_folder(above)?;
        }
        Ok(self.upload.clone())
    }

    /// Hashes a complete upload. Blocks. If the digest is not the expected one, removes the upload and returns the
    /// actual digest as the inner error.
    pub fn finish(mut self) -> Result<Result<ReceivedAsset, String>, StoreError> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut hash = Sha256::new();
        let mut part = vec![0; HASH_CHUNK_BYTES];
        loop {
            let read = self.file.read(&mut part)?;
            if read == 0 {
                break;
            }
            hash.update(part.get(..read).unwrap_or_default());
        }
        let digest = hex::encode(hash.finalize());
        let path = self.folder.join(self.upload.file_name());
        if self.upload.digest.as_ref().is_some_and(|expected| *expected != digest) {
            std::fs::remove_file(path)?;
            return Ok(Err(digest));
        }
        Ok(Ok(ReceivedAsset { digest, size: self.upload.size, path }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::records::blobs::BlobKind;
    use crate::store::Store;

    fn upload(size: u64, digest: Option<&str>) -> Upload {
        Upload { asset: AssetName::new("w").unwrap(), size, received: 0, digest: digest.map(ToOwned::to_owned) }
    }

    #[tokio::test]
    async fn an_upload_goes_on_where_it_was_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), "x").unwrap();
        let (files, tenant) = (store.files(), TenantName::new("acme").unwrap());
        let mut appending = files.begin_upload(&tenant, upload(8, None)).unwrap();
        appending.write(b"abcd").unwrap();
        let known = appending.sync().unwrap();
        assert_eq!(known.received, 4);
        // Written but not acknowledged, as after a crash.
        appending.write(b"XY").unwrap();
        drop(appending);
        assert_eq!(files.uploads(&tenant), std::slice::from_ref(&known));
        let mut appending = files.resume_upload(&tenant, known).unwrap();
        assert_eq!(appending.left(), 4);
        appending.write(b"efgh").unwrap();
        appending.sync().unwrap();
        let arrived = appending.finish().unwrap().unwrap();
        let assets = store.blobs(BlobKind::Asset, &tenant);
        assets.put_file(&arrived.path, &arrived.digest).await.unwrap();
        files.drop_upload(&tenant, &AssetName::new("w").unwrap());
        assert_eq!(assets.get(&arrived.digest).await.unwrap().unwrap(), b"abcdefgh");
        assert!(files.uploads(&tenant).is_empty());
    }

    #[tokio::test]
    async fn other_bytes_than_were_announced_are_told_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), "x").unwrap();
        let (files, tenant) = (store.files(), TenantName::new("acme").unwrap());
        let mut appending = files.begin_upload(&tenant, upload(1, Some(&"0".repeat(64)))).unwrap();
        appending.write(b"a").unwrap();
        appending.sync().unwrap();
        assert!(appending.finish().unwrap().is_err());
        assert!(files.uploads(&tenant).is_empty());
    }
}
