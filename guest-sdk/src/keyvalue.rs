//! Key-value storage: what a function keeps from one request to the next. All functions of a tenant share its buckets.
//!
//! What [`set`](Bucket::set) has written is on disk when it returns. A bucket has 1 to 64 printable characters, a key 1 to
//! 512 bytes, a value at most 256 KiB; the tenant's limits `keyvalue_mib` and `keyvalue_keys` bound all of them together.

use crate::bindings::wasi::keyvalue::{atomics, batch, store};
use std::fmt;

/// Why a call failed.
///
/// ```
/// # use gannet_sdk::keyvalue::Error;
/// let error = Error::Other("the disk is full".into());
/// assert_eq!(error.to_string(), "the disk is full");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No bucket has such a name.
    NoSuchBucket,
    /// The request is over.
    Denied,
    /// The key or value is too long, a limit is used up, or the server could not do it. The text says which.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchBucket => f.write_str("a bucket has 1 to 64 printable ASCII characters without / and spaces"),
            Self::Denied => f.write_str("the request is over"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore => Self::NoSuchBucket,
            store::Error::AccessDenied => Self::Denied,
            store::Error::Other(why) => Self::Other(why),
        }
    }
}

/// The result of a call.
///
/// ```no_run
/// # use gannet_sdk::keyvalue::{Bucket, Result};
/// fn visits() -> Result<u64> {
///     Bucket::open("visits")?.increment("all", 1)
/// }
/// ```
pub type Result<T> = std::result::Result<T, Error>;

/// A named collection of keys with their values. It exists as soon as it is opened.
///
/// ```no_run
/// # use gannet_sdk::keyvalue::{Bucket, Result};
/// # fn f() -> Result<()> {
/// let state = Bucket::open("state")?;
/// state.set("doc/7", "read")?;
/// assert_eq!(state.get("doc/7")?.as_deref(), Some(&b"read"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bucket(store::Bucket);

impl Bucket {
    /// Opens a bucket of the tenant. An empty name is the bucket `default`.
    ///
    /// ```no_run
    /// # use gannet_sdk::keyvalue::Bucket;
    /// let state = Bucket::open("state")?;
    /// # Ok::<(), gannet_sdk::keyvalue::Error>(())
    /// ```
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self(store::open(name)?))
    }

    /// The value of a key, if there is one.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// let known = state.get("doc/7")?.is_some();
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(key)?)
    }

    /// Writes the value of a key. It is on disk when this returns.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// state.set("doc/7", [1, 2, 3])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.0.set(key, value.as_ref())?)
    }

    /// Removes a key. Removing one that does not exist is no error.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// state.delete("doc/7")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete(&self, key: &str) -> Result<()> {
        Ok(self.0.delete(key)?)
    }

    /// Whether there is a key.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// assert!(!state.exists("doc/8")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.0.exists(key)?)
    }

    /// Adds to the number that a key has, and returns the sum. A key that does not exist has 0. Concurrent requests never
    /// lose an addition. The value is decimal text.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// let documents = state.increment("documents", 1)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn increment(&self, key: &str, by: u64) -> Result<u64> {
        Ok(atomics::increment(&self.0, key, by)?)
    }

    /// All keys of the bucket, in no particular order. They are fetched in pages, as the iterator goes on.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// let documents: Vec<String> = state.keys().collect::<Result<_, _>>()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn keys(&self) -> Keys<'_> {
        Keys { bucket: self, page: Vec::new().into_iter(), next: Next::From(None) }
    }

    /// The values of at most 100 keys, in their order. Together they may have 1 MiB.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// let values = state.get_many(["doc/7", "doc/8"])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many(&self, keys: impl IntoIterator<Item = impl Into<String>>) -> Result<Vec<Option<Vec<u8>>>> {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        let pairs = batch::get_many(&self.0, &keys)?;
        Ok(pairs.into_iter().map(|pair| pair.map(|(_, value)| value)).collect())
    }

    /// Writes at most 100 keys, with values of at most 1 MiB together: all of them, or none.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// state.set_many([("doc/7/0", "first"), ("doc/7/1", "second")])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_many(&self, pairs: impl IntoIterator<Item = (impl Into<String>, impl Into<Vec<u8>>)>) -> Result<()> {
        let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Ok(batch::set_many(&self.0, &pairs)?)
    }

    /// Removes at most 100 keys: all of them, or none.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// state.delete_many(["doc/7/0", "doc/7/1"])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_many(&self, keys: impl IntoIterator<Item = impl Into<String>>) -> Result<()> {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        Ok(batch::delete_many(&self.0, &keys)?)
    }

    /// The value of a key, read as JSON. Needs the feature `json`.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// let sizes: Option<Vec<u32>> = state.get_json("sizes")?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    pub fn get_json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let read = |value: Vec<u8>| {
            serde_json::from_slice(&value).map_err(|error| Error::Other(format!("the value of {key:?}: {error}")))
        };
        self.get(key)?.map(read).transpose()
    }

    /// Writes the value of a key as JSON. Needs the feature `json`.
    ///
    /// ```no_run
    /// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
    /// state.set_json("sizes", &[640, 480])?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    pub fn set_json(&self, key: &str, value: &(impl serde::Serialize + ?Sized)) -> Result<()> {
        let text = serde_json::to_vec(value).map_err(|error| Error::Other(error.to_string()))?;
        self.set(key, text)
    }
}

/// Where the next page of keys begins.
#[derive(Debug)]
enum Next {
    From(Option<u64>),
    End,
}

/// The keys of a bucket; see [`Bucket::keys`].
///
/// ```no_run
/// # fn f(state: &gannet_sdk::keyvalue::Bucket) -> gannet_sdk::keyvalue::Result<()> {
/// for key in state.keys() {
///     println!("{}", key?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Keys<'a> {
    bucket: &'a Bucket,
    page: std::vec::IntoIter<String>,
    next: Next,
}

impl Iterator for Keys<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(key) = self.page.next() {
                return Some(Ok(key));
            }
            let Next::From(cursor) = self.next else { return None };
            self.next = Next::End;
            match self.bucket.0.list_keys(cursor) {
                Ok(page) => {
                    self.page = page.keys.into_iter();
                    if page.cursor.is_some() {
                        self.next = Next::From(page.cursor);
                    }
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}
