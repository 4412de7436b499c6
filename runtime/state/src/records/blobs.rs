//! Large values, by the SHA-256 of their bytes.

use super::StoreFuture;
use std::fmt::Debug;
use std::io;

/// A store of blobs. All calls can be repeated.
pub trait BlobStore: Send + Sync + Debug {
    /// Stores bytes durably, and returns their digest in hex. Storing the same bytes again is no error.
    fn put(&self, bytes: Vec<u8>) -> StoreFuture<'_, io::Result<String>>;

    /// Returns the bytes with a digest, after checking it. None if they are not stored.
    fn get<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<Option<Vec<u8>>>>;

    /// Removes the bytes with a digest, if they are stored.
    fn delete<'a>(&'a self, digest: &'a str) -> StoreFuture<'a, io::Result<()>>;

    /// Returns the digests of all blobs.
    fn list(&self) -> StoreFuture<'_, io::Result<Vec<String>>>;
}
