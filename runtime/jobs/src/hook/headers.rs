//! The headers of what was posted to a hook, and those of them that its function gets.

use serde::Serialize;
use std::collections::BTreeMap;

/// Headers that a function does not get: credentials, and what belongs to the connection.
const LEFT_OUT: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
];
/// What begins like this is left out too.
const LEFT_OUT_PREFIXES: [&str; 3] = ["x-forwarded-", "x-gannet-", "proxy-"];

/// The headers of a delivery, with names in lower case. Values of the same name are joined with commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// Collects headers.
    pub fn new(all: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in all {
            match headers.get_mut(&name) {
                Some(before) => {
                    before.push_str(", ");
                    before.push_str(&value);
                }
                None => drop(headers.insert(name, value)),
            }
        }
        Self(headers)
    }

    /// Returns a header's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns those that functions get: no credentials, and nothing of the connection.
    pub fn for_functions(&self) -> BTreeMap<&str, &str> {
        let is_left_out =
            |name: &str| LEFT_OUT.contains(&name) || LEFT_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let kept = self.0.iter().filter(|(name, _)| !is_left_out(name));
        kept.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}
