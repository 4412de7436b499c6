//! Inputs and outputs: short ones are records, long ones are blobs, which are stored before the record that names them.

use super::shared::Shared;
use crate::job::Job;
use crate::keys;
use crate::outcome::Payload;
use crate::runner::Runner;
use bytes::Bytes;
use gannet_state::records::{Change, Expect};
use sha2::{Digest, Sha256};
use std::io;

/// What is longer is a blob.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// A payload, and the change that stores it if it is short.
pub(super) struct Stored {
    pub(super) payload: Payload,
    pub(super) change: Option<Change>,
}

impl<R: Runner> Shared<R> {
    /// Stores a payload whose record would have this key.
    pub(super) async fn store_payload(&self, key: String, value: Vec<u8>) -> io::Result<Stored> {
        let bytes = value.len() as u64;
        if value.len() <= INLINE_BYTES_MAX {
            let change = Some(Change::Put { key, value, expect: Expect::Any });
            return Ok(Stored { payload: Payload { bytes, blob: None }, change });
        }
        let digest = hex::encode(Sha256::digest(&value));
        // Held first: whoever removes blobs looks at that under the lock.
        let _not_removed = self.removing_blobs.read().await;
        self.state().hold_blob(&digest);
        match self.blobs.put(value).await {
            Ok(digest) => Ok(Stored { payload: Payload { bytes, blob: Some(digest) }, change: None }),
            Err(error) => {
                self.state().release_blob(&digest);
                Err(error)
            }
        }
    }

    /// Removes blobs that belonged to payloads which are gone, unless others are the same.
    pub(super) async fn remove_blobs(&self, digests: Vec<String>) -> io::Result<()> {
        for digest in digests {
            let _alone = self.removing_blobs.write().await;
            if self.state().release_blob(&digest) {
                self.blobs.delete(&digest).await?;
            }
        }
        Ok(())
    }

    async fn load(&self, key: &str, payload: &Payload) -> io::Result<Bytes> {
        let value = match &payload.blob {
            Some(digest) => self.blobs.get(digest).await?,
            None => self.records.get(key).await?.map(|entry| entry.value),
        };
        value.map(Bytes::from).ok_or_else(|| io::Error::other(format!("{key} is missing")))
    }

    /// Returns a job's input.
    pub(super) async fn input(&self, job: &Job) -> io::Result<Bytes> {
        self.load(&keys::input(job.id), &job.input).await
    }

    /// Returns a job's output, if it has one.
    pub(super) async fn output(&self, job: &Job) -> io::Result<Option<Bytes>> {
        match &job.output {
            Some(output) => self.load(&keys::output(job.id), output).await.map(Some),
            None => Ok(None),
        }
    }
}
