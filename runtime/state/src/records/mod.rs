//! Durable records by key, behind a trait: jobs and everything that belongs to them are kept in it.
//!
//! ```text
//!  commit([Put | Delete { key, expect }]) ─▶ checked against every key's revision ─▶ durable ─▶ Ok(revision)
//!       │ another revision than expected: Conflict, nothing was done
//!       │ no space, or the disk failed and nothing was kept: Full, Unavailable
//!       └ it may have been done or not: Unknown, the caller reads again and never assumes
//! ```
//!
//! Implementations: [`local`] keeps the records of one machine in files; [`simulated`] is for tests, and loses what was
//! not synced, answers late or answers "unknown". One suite, `contract.rs` with `contract_of_blobs.rs`, runs against all of them.
//!
//! Beside it: [`claims`] are leases that records hold, [`hints`] wake who waits, [`crate::streams`] keep lines in order.
//!
//! A revision is the number of the commit that wrote a record. Revisions grow, and none is ever given twice, also
//! across restarts. Records are at most [`VALUE_BYTES_MAX`] bytes; what is larger goes into a [`blobs::BlobStore`].

pub mod blobs;
pub mod claims;
pub(crate) mod feed;
pub mod hints;
pub mod local;
pub mod simulated;
mod simulated_blobs;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod contract_of_blobs;

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;

/// Largest value of a record, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Most changes in one commit.
pub const CHANGES_MAX: usize = 1_000;
/// Most bytes of the keys and values in one commit.
pub const COMMIT_BYTES_MAX: usize = 16 << 20;

/// The number of the commit that wrote a record.
pub type Revision = u64;

/// A future that a store returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key: printable ASCII without spaces.
    pub key: String,
    /// The number of the commit that wrote it.
    pub revision: Revision,
    /// Its value.
    pub value: Vec<u8>,
}

/// What must hold for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no record with this key.
    Absent,
    /// The record was last written by this commit.
    Revision(Revision),
}

/// One change of a commit. A commit names each key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a record.
    Put {
        /// Its key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// What must hold.
        expect: Expect,
    },
    /// Removes a record. Removing one that does not exist is no error, unless a revision is expected.
    Delete {
        /// Its key.
        key: String,
        /// What must hold.
        expect: Expect,
    },
    /// Changes nothing: the commit is made only if this holds.
    Check {
        /// The key of a record.
        key: String,
        /// What must hold.
        expect: Expect,
    },
}

impl Change {
    /// Returns the key.
    pub fn key(&self) -> &str {
        let (Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. }) = self;
        key
    }

    /// Returns what must hold.
    pub fn expect(&self) -> Expect {
        let (Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. }) = self;
        *expect
    }

    /// Returns the bytes of the key and the value.
    pub fn bytes(&self) -> usize {
        let value = if let Self::Put { value, .. } = self { value.len() } else { 0 };
        self.key().len() + value
    }
}

/// Why a commit has no revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A record is not as expected. Nothing was changed.
    #[error("the record {key:?} was changed meanwhile")]
    Conflict {
        /// The first such key.
        key: String,
    },
    /// A key, a value or the commit is too large or malformed, or it names a key twice. Nothing was changed.
    #[error("a commit that no store accepts: {0}")]
    Invalid(String),
    /// There is no space for it. Nothing was changed.
    #[error("the disk is full")]
    Full,
    /// The store does not work now. Nothing was changed.
    #[error("the store of records does not work: {0}")]
    Unavailable(String),
    /// It may have been done or not, now or later.
    #[error("it is not known whether a change was stored: {0}")]
    Unknown(String),
}

/// A page of records, in the order of their keys, or in the opposite one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The records.
    pub entries: Vec<Entry>,
    /// The newest commit that they include. A watch continues from here.
    pub position: Revision,
    /// Whether more records follow the last one.
    pub more: bool,
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// A record was written.
    Put(Entry),
    /// A record was removed by this commit.
    Deleted {
        /// Its key.
        key: String,
        /// The commit.
        revision: Revision,
    },
    /// Changes were missed, because they were not taken in time: read again.
    Lagged,
}

/// Changes of the records with one prefix, in the order of their commits.
pub trait Watch: Send + Debug {
    /// Waits for the next change. None if the store has ended.
    fn next(&mut self) -> StoreFuture<'_, Option<Watched>>;
}

/// A store of records; see the module. Reads see every commit that was acknowledged before.
pub trait RecordStore: Send + Sync + Debug {
    /// Returns the record with a key.
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, io::Result<Option<Entry>>>;

    /// Returns at most `limit` records whose keys begin with `prefix`, from the first one after `after`. It may return
    /// fewer although more follow, so that a page stays small in bytes: only [`Page::more`] tells the end.
    fn page<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> StoreFuture<'a, io::Result<Page>>;

    /// Does the same from the end: at most `limit` records whose keys begin with `prefix`, from the last one before
    /// `before`, in descending order.
    fn page_back<'a>(
        &'a self,
        prefix: &'a str,
        before: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, io::Result<Page>>;

    /// Makes all changes or none. They are durable when it returns a revision. Commits are made in the order in which
    /// this is called, before the returned future is first polled: a later one sees what an earlier one wrote.
    fn commit(&self, changes: Vec<Change>) -> StoreFuture<'static, Result<Revision, CommitError>>;

    /// Reports the changes of records whose keys begin with `prefix` that were committed after `position`, or `Lagged`
    /// if they are not known any more. After `Lagged` the watch goes on with what is committed from then on.
    fn watch(&self, prefix: &str, position: Revision) -> Box<dyn Watch>;
}

/// Checks what every store refuses.
pub(crate) fn check_changes(changes: &[Change]) -> Result<(), CommitError> {
    let invalid = |why: String| Err(CommitError::Invalid(why));
    if changes.len() > CHANGES_MAX {
        return invalid(format!("{} changes; the limit is {CHANGES_MAX}", changes.len()));
    }
    let (mut keys, mut bytes) = (std::collections::HashSet::new(), 0);
    for change in changes {
        let key = change.key();
        let length = change.bytes() - key.len();
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return invalid(format!("a key of {} bytes; keys have 1 to {KEY_BYTES_MAX} printable bytes", key.len()));
        }
        if length > VALUE_BYTES_MAX {
            return invalid(format!("a value of {length} bytes; the limit is {VALUE_BYTES_MAX}"));
        }
        if !keys.insert(key) {
            return invalid(format!("it names {key:?} twice"));
        }
        bytes += key.len() + length;
    }
    if bytes > COMMIT_BYTES_MAX {
        return invalid(format!("{bytes} bytes; the limit is {COMMIT_BYTES_MAX}"));
    }
    Ok(())
}

/// Checks what a commit expects. `revision_of` returns which commit wrote a record, or None if there is no such record.
pub(crate) fn check_expected(
    changes: &[Change],
    revision_of: impl Fn(&str) -> Option<Revision>,
) -> Result<(), CommitError> {
    for change in changes {
        let key = change.key();
        let holds = match change.expect() {
            Expect::Any => true,
            Expect::Absent => revision_of(key).is_none(),
            Expect::Revision(revision) => revision_of(key) == Some(revision),
        };
        if !holds {
            return Err(CommitError::Conflict { key: key.to_owned() });
        }
    }
    Ok(())
}

/// Returns the last key that begins with `prefix` and comes before `before`, as the upper bound of a range: all keys that
/// begin with `prefix` are below it.
pub(crate) fn below<'a>(prefix: &'a str, before: Option<&'a str>) -> std::ops::Bound<String> {
    // Keys are ASCII, so DEL ends all that begin with the prefix.
    let end = format!("{prefix}\u{7f}");
    std::ops::Bound::Excluded(match before {
        Some(before) if before < end.as_str() => before.to_owned(),
        _ => end,
    })
}
