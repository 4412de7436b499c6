//! Calls of a guest to the platform: key-value storage, and the job that a request is an attempt of. A worker sends them
//! to the front door over its outbound connection, as POSTs with the header [`SERVICE`](super::header::SERVICE). A body
//! is JSON, bytes in it are base64. A call is answered with a `Result` of the answer and the error.

use serde::{Deserialize, Serialize};

/// The version of this format, which the header names.
pub const FORMAT: &str = "1";
/// Calls of one worker at the same time, beside its outbound HTTP.
pub const STREAMS_MAX: u32 = 32;
/// Limit on the body of a call and on that of its answer, in bytes.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Limit on the progress of a job, in bytes.
pub const PROGRESS_BYTES_MAX: usize = 64 << 10;
/// Limit on the name of a bucket, in bytes.
pub const BUCKET_BYTES_MAX: usize = 64;
/// Limit on a key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Limit on a value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 << 10;
/// Limit on the keys of one batch.
pub const BATCH_KEYS_MAX: usize = 100;
/// Limit on the values of one batch together, in bytes.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Bytes, which are base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Value(pub Vec<u8>);

impl From<Value> for String {
    fn from(value: Value) -> Self {
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, value.0)
    }
}

impl TryFrom<String> for Value {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).map(Self)
    }
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlatformCall {
    /// Which job is the request an attempt of?
    CurrentJob,
    /// How far the job is, as JSON.
    Progress(String),
    /// A call of key-value storage.
    KeyValue {
        /// The bucket.
        bucket: String,
        /// The operation on the bucket.
        call: KeyValueCall,
    },
}

impl PlatformCall {
    /// Whether the call may change something. A request that has only read can be repeated.
    pub fn may_change(&self) -> bool {
        match self {
            Self::CurrentJob => false,
            Self::Progress(_) => true,
            Self::KeyValue { call, .. } => call.may_change(),
        }
    }
}

/// A call of key-value storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyValueCall {
    /// Reads the values of keys.
    Get(Vec<String>),
    /// Writes the values of keys: all or none.
    Set(Vec<(String, Value)>),
    /// Removes keys: all or none.
    Delete(Vec<String>),
    /// Whether there is a key.
    Exists(String),
    /// Lists keys, from after the page that returned this cursor.
    List(Option<u64>),
    /// Adds a number to the number that a key has.
    Increment {
        /// The key.
        key: String,
        /// The number that is added to the key's.
        by: u64,
    },
}

impl KeyValueCall {
    /// Whether the call may change something.
    pub fn may_change(&self) -> bool {
        match self {
            Self::Set(_) | Self::Delete(_) | Self::Increment { .. } => true,
            Self::Get(_) | Self::Exists(_) | Self::List(_) => false,
        }
    }
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlatformAnswer {
    /// It was done.
    Done,
    /// The job of the request.
    Job {
        /// Its id.
        id: String,
        /// The number of the attempt.
        attempt: u32,
    },
    /// The values of keys, in their order.
    Values(Vec<Option<Value>>),
    /// Whether there is a key.
    Exists(bool),
    /// A page of keys.
    Keys {
        /// The keys.
        keys: Vec<String>,
        /// Continues behind them. None if there are no more.
        cursor: Option<u64>,
    },
    /// The number that a key has now.
    Number(u64),
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PlatformError {
    /// There is no request: its guest is being made, or its `init` runs.
    #[error("there is no request yet")]
    NoRequest,
    /// The request is not in flight, or its tenant does not exist any more.
    #[error("the request is over")]
    Over,
    /// The request is no attempt of a job, or the attempt is over.
    #[error("the request is no attempt of a job")]
    NotAJob,
    /// No bucket has such a name.
    #[error("{0}")]
    NoSuchBucket(String),
    /// The call is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A limit is used up, or there is no room.
    #[error("{0}")]
    Refused(String),
    /// It may have been done or not.
    #[error("it is not known whether it was done: {0}")]
    Unknown(String),
    /// The server could not do it. Nothing was changed.
    #[error("{0}")]
    Failed(String),
}

/// The bucket that a guest opens with an empty name.
pub const DEFAULT_BUCKET: &str = "default";

/// Returns the name of a bucket as it is stored, or what is wrong with it.
pub fn check_bucket(name: &str) -> Result<&str, PlatformError> {
    let name = if name.is_empty() { DEFAULT_BUCKET } else { name };
    let is_printable = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if name.len() <= BUCKET_BYTES_MAX && is_printable {
        return Ok(name);
    }
    let shown: String = name.chars().take(BUCKET_BYTES_MAX).collect();
    Err(PlatformError::NoSuchBucket(format!(
        "{shown:?} has {} bytes; a bucket has 1 to {BUCKET_BYTES_MAX} printable ASCII characters without / and spaces",
        name.len()
    )))
}

/// Returns what is wrong with a key.
pub fn check_key(key: &str) -> Result<(), PlatformError> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        length => Err(PlatformError::Invalid(format!("a key of {length} bytes; it may have 1 to {KEY_BYTES_MAX}"))),
    }
}

/// Returns what is wrong with a value.
pub fn check_value(value: &[u8]) -> Result<(), PlatformError> {
    match value.len() {
        0..=VALUE_BYTES_MAX => Ok(()),
        length => Err(PlatformError::Invalid(format!("a value of {length} bytes; the limit is {VALUE_BYTES_MAX}"))),
    }
}

impl KeyValueCall {
    /// Returns what is wrong with the keys, the values or the number of them. Both sides ask: the worker so that the guest
    /// learns it before anything is sent, the front door because the worker may be hostile.
    pub fn check(&self) -> Result<(), PlatformError> {
        let count = |count: usize| match count {
            0..=BATCH_KEYS_MAX => Ok(()),
            _ => Err(PlatformError::Invalid(format!("a batch of {count} keys; the limit is {BATCH_KEYS_MAX}"))),
        };
        match self {
            Self::Get(keys) | Self::Delete(keys) => {
                count(keys.len())?;
                keys.iter().try_for_each(|key| check_key(key))
            }
            Self::Set(pairs) => {
                count(pairs.len())?;
                pairs.iter().try_for_each(|(key, value)| check_key(key).and_then(|()| check_value(&value.0)))?;
                match pairs.iter().map(|(_, value)| value.0.len()).sum() {
                    0..=BATCH_BYTES_MAX => Ok(()),
                    bytes => Err(PlatformError::Invalid(format!(
                        "a batch with values of {bytes} bytes; the limit is {BATCH_BYTES_MAX}"
                    ))),
                }
            }
            Self::Exists(key) | Self::Increment { key, .. } => check_key(key),
            Self::List(_) => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_answers_survive_the_way_and_nothing_else_is_understood() {
        let pair = ("k\u{0}é".to_owned(), Value(vec![0, 255, 7]));
        let call = PlatformCall::KeyValue { bucket: "b".into(), call: KeyValueCall::Set(vec![pair]) };
        let text = serde_json::to_vec(&call).unwrap();
        assert_eq!(serde_json::from_slice::<PlatformCall>(&text).unwrap(), call);
        let answer: Result<PlatformAnswer, PlatformError> = Err(PlatformError::Refused("full".into()));
        let text = serde_json::to_vec(&answer).unwrap();
        assert_eq!(serde_json::from_slice::<Result<PlatformAnswer, PlatformError>>(&text).unwrap(), answer);
        for wrong in ["{}", "{\"no_such\":1}", "{\"key_value\":{\"bucket\":\"b\",\"call\":{\"set\":[[\"k\",\"%\"]]}}}"]
        {
            assert!(serde_json::from_str::<PlatformCall>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_calls_that_may_change_something_are_told_apart_as_such() {
        let of = |call| PlatformCall::KeyValue { bucket: String::new(), call };
        for read in [
            PlatformCall::CurrentJob,
            of(KeyValueCall::Get(vec!["k".into()])),
            of(KeyValueCall::Exists("k".into())),
            of(KeyValueCall::List(None)),
        ] {
            assert!(!read.may_change(), "{read:?}");
        }
        for change in [
            PlatformCall::Progress("1".into()),
            of(KeyValueCall::Set(vec![("k".into(), Value(Vec::new()))])),
            of(KeyValueCall::Delete(vec!["k".into()])),
            of(KeyValueCall::Increment { key: "k".into(), by: 0 }),
        ] {
            assert!(change.may_change(), "{change:?}");
        }
    }

    #[test]
    fn buckets_keys_values_and_batches_have_limits_that_their_errors_name() {
        assert_eq!((check_bucket("").unwrap(), check_bucket("a.b:c").unwrap()), ("default", "a.b:c"));
        for wrong in ["a/b", "a b", "\u{e4}", "\n", &"x".repeat(65)] {
            assert!(matches!(check_bucket(wrong), Err(PlatformError::NoSuchBucket(_))), "{wrong:?}");
        }
        let told = |call: KeyValueCall| call.check().err().map(|error| error.to_string());
        assert_eq!(told(KeyValueCall::Exists("x".repeat(512))), None);
        let long = told(KeyValueCall::Exists("x".repeat(513)));
        assert_eq!(long.as_deref(), Some("a key of 513 bytes; it may have 1 to 512"));
        assert!(told(KeyValueCall::Get(vec![String::new()])).is_some());
        let set = |count: usize, bytes: usize| KeyValueCall::Set(vec![("k".into(), Value(vec![0; bytes])); count]);
        assert_eq!((told(set(100, 10)), told(set(4, VALUE_BYTES_MAX))), (None, None));
        assert!(told(set(101, 1)).is_some_and(|told| told.contains("the limit is 100")));
        assert!(told(set(5, VALUE_BYTES_MAX)).is_some_and(|told| told.contains("the limit is 1048576")));
        assert!(told(set(1, VALUE_BYTES_MAX + 1)).is_some_and(|told| told.contains("the limit is 262144")));
    }
}
