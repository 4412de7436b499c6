//! Large values, by the digest of their bytes, behind traits: what jobs take and return, and what tenants upload.

use super::StoreFuture;
use gannet_base::names::TenantName;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keeps bytes durably. The key of bytes is their digest: SHA-256 in hex.
pub trait BlobStore: Send + Sync + Debug {
    /// Stores bytes durably, and returns their digest. Storing the same bytes again is no error, and heals damage.
    fn put(&self, bytes: Vec<u8>) -> StoreFuture<'_, io::Result<String>>;

    /// Stores the bytes of a file of this machine durably. The caller has computed their digest. The file stays, and the
    /// store may share its bytes with it, so nobody may change it any more.
    fn put_file<'a>(&'a self, file: &'a Path, digest: &'a str) -> StoreFuture<'a, io::Result<()>>;

    /// Returns the bytes with a digest, after checking it. None if they are not stored.
    fn get<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<Vec<u8>>>>;

    /// Returns how many bytes have a digest. None if they are not stored.
    fn size<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<u64>>>;

    /// Returns a file of this machine that has the bytes with a digest, for processes that map it. Whoever uses it checks
    /// what it reads, and changes nothing. A process that has it open can read it after it was deleted. None if the bytes
    /// are not stored.
    fn local_file<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<PathBuf>>>;

    /// Removes the bytes with a digest, if they are stored.
    fn delete<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<()>>;

    /// Returns the digests of all blobs.
    fn list(&self) -> StoreFuture<'_, io::Result<Vec<String>>>;
}

/// What tenants upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobKind {
    /// A component, as it was uploaded.
    Component,
    /// An asset.
    Asset,
}

/// The blobs of tenants. Each tenant has its own of each kind, so that no tenant can learn what another one has stored.
pub trait TenantBlobs: Send + Sync + Debug {
    /// Returns the blobs of one kind of a tenant.
    fn of(&self, kind: BlobKind, tenant: &TenantName) -> Arc<dyn BlobStore>;

    /// Returns the names of all that have blobs of a kind. They may not be names of tenants.
    fn tenants(&self, kind: BlobKind) -> StoreFuture<'_, io::Result<Vec<String>>>;

    /// Removes all blobs of a tenant.
    fn remove_tenant(&self, tenant: &TenantName) -> StoreFuture<'_, io::Result<()>>;
}
