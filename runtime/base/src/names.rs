//! Names of tenants, functions, assets and GPU classes, and the ids of requests.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest tenant name; `{function}--{tenant}` must fit a DNS label.
pub const TENANT_MAX: usize = 24;
/// The longest function name.
pub const FUNCTION_MAX: usize = 32;

/// The longest asset name.
pub const ASSET_MAX: usize = 64;

/// The longest schedule name.
pub const SCHEDULE_MAX: usize = 64;

/// The class name that matches every GPU.
pub const ANY_CLASS: &str = "any";

/// Returns whether a text is a valid name of a GPU class.
pub fn is_class(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

/// How similar a known word must be to an unknown one to be suggested for it (Jaro-Winkler similarity).
const SIMILAR: f64 = 0.8;

/// Returns the known word that was probably meant. None if no word is similar.
pub fn similar<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let rated = known.map(|word| (strsim::jaro_winkler(unknown, word), word));
    let nearest = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (nearest.0 >= SIMILAR).then_some(nearest.1)
}

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {text:?} {why}")]
pub struct NameError {
    kind: &'static str,
    text: String,
    why: String,
}

fn check(kind: &'static str, text: &str, longest: usize) -> Result<(), NameError> {
    let fail = |why: String| Err(NameError { kind, text: text.chars().take(64).collect(), why });
    if text.is_empty() || text.len() > longest {
        return fail(format!("has {} characters; names have 1 to {longest}", text.len()));
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return fail("may hold only a-z, 0-9 and single dashes".into());
    }
    if text.starts_with('-') || text.ends_with('-') || text.contains("--") {
        return fail("may have dashes only one at a time and between other characters".into());
    }
    let version =
        text.strip_prefix('v').is_some_and(|n| n.len() == 1 && n != "0" && n.bytes().all(|b| b.is_ascii_digit()));
    if version || ["operator", "api", "console"].contains(&text) {
        return fail("is reserved".into());
    }
    Ok(())
}

/// Checks the name of an asset. It may have more characters than other names: it is not part of a host name, and models
/// have names like `q4_1` and `v1.5`.
fn check_asset(kind: &'static str, text: &str, longest: usize) -> Result<(), NameError> {
    let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let fine = end(text.bytes().next()) && end(text.bytes().last()) && text.bytes().all(part) && text.len() <= longest;
    if fine {
        return Ok(());
    }
    let why = format!("is not 1 to {longest} of a-z, 0-9, and dashes, underscores and dots between them");
    Err(NameError { kind, text: text.chars().take(64).collect(), why })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Returns the name, if the text is a valid one.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check($kind, text, $max)?;
                Ok(Self(text.into()))
            }
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        // Written out, because the derived one would copy the name.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(/** The name of a tenant. */ TenantName, "tenant", TENANT_MAX, check);
name!(/** The name of a function. */ FunctionName, "function", FUNCTION_MAX, check);
name!(/** The name of an asset. */ AssetName, "asset", ASSET_MAX, check_asset);
name!(/** The name of a schedule of a function. */ ScheduleName, "schedule", SCHEDULE_MAX, check_asset);
name!(/** The name of a hook of a function: of a source that posts events. */ HookName, "hook", SCHEDULE_MAX, check_asset);

/// The id of a request: a UUIDv7, so that ids sort by time. The server always makes it; it never takes one from a
/// client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    /// Returns a new id.
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    /// Parses an id.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(Self)
    }

    /// Returns the 16 bytes of the id. They sort in the order of the ids.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// Returns the id with these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_words_are_suggested() {
        let known = || ["cpu_ms", "memory_mib", "timeout_ms"].into_iter();
        for (unknown, suggested) in [
            ("cpu_m", Some("cpu_ms")),
            ("memory", Some("memory_mib")),
            ("timeouts", Some("timeout_ms")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(similar(unknown, known()), suggested, "{unknown}");
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "blur", "a-b", "0x", "v0", "v10", "verylongfunctionnamethatfits32c"] {
            assert!(FunctionName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "a_b",
            "-a",
            "a-",
            "a--b",
            "a.b",
            "ä",
            "operator",
            "api",
            "console",
            "v1",
            "v9",
            "../x",
            &"a".repeat(33),
        ] {
            assert!(FunctionName::new(bad).is_err(), "{bad}");
        }
        assert!(TenantName::new(&"a".repeat(25)).is_err());
    }

    #[test]
    fn an_asset_may_be_called_what_models_are_called() {
        for good in ["smollm2-135m-instruct-q4_1", "all-minilm-l6-v2", "v1", "a", "bge-small-en-v1.5"] {
            assert!(AssetName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", ".", "..", "a/b", "-a", "a.", "a~b", "ä", &"a".repeat(65)] {
            assert!(AssetName::new(bad).is_err(), "{bad}");
        }
    }
}
