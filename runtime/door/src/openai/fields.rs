//! Reads the two fields that the front door needs from a body of any content: `model` and `stream`.
//!
//! Invariant: nothing of the body is copied but the two values, everything else is skipped, and a long body is read on a
//! thread that serves nobody. So a body costs time in proportion to its length and no memory.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The largest body that a serving thread reads itself, in bytes; it takes about 100 µs. A longer one is read on a blocking
/// thread.
const SHORT_BYTES: usize = 64 * 1024;

/// The fields of a body that the front door needs.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct Fields {
    /// The model that the client names.
    pub(super) model: Option<String>,
    /// Whether it asks for a stream: anything but `true` means no.
    #[serde(default)]
    pub(super) stream: IsTrue,
}

/// Whether a value of any kind is `true`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IsTrue(pub(super) bool);

/// Reads the fields of a body.
pub(super) async fn read(body: &Bytes) -> Result<Fields, String> {
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| error.to_string());
    if body.len() <= SHORT_BYTES {
        return parse(body);
    }
    let body = body.clone();
    let parsed = tokio::task::spawn_blocking(move || parse(&body)).await;
    parsed.unwrap_or_else(|error| Err(error.to_string()))
}

impl<'de> Deserialize<'de> for IsTrue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// Skips every value but a boolean.
struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = IsTrue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<IsTrue, E> {
        Ok(IsTrue(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<IsTrue, E> {
        Ok(IsTrue(false))
    }

    fn visit_u64<E>(self, _: u64) -> Result<IsTrue, E> {
        Ok(IsTrue(false))
    }

    fn visit_f64<E>(self, _: f64) -> Result<IsTrue, E> {
        Ok(IsTrue(false))
    }

    fn visit_str<E>(self, _: &str) -> Result<IsTrue, E> {
        Ok(IsTrue(false))
    }

    fn visit_unit<E>(self) -> Result<IsTrue, E> {
        Ok(IsTrue(false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<IsTrue, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(IsTrue(false))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<IsTrue, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(IsTrue(false))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_true_asks_for_a_stream_and_the_rest_of_a_body_is_skipped() {
        let deep = format!(r#"{{"stream":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let long = format!(r#"[{} 1]"#, r#"{"":0},"#.repeat(100_000));
        for (body, model, stream) in [
            (r#"{"model":"m","stream":true}"#, Some("m"), true),
            (r#"{"stream":false,"model":"m"}"#, Some("m"), false),
            (r#"{"stream":null}"#, None, false),
            (r#"{"stream":"true","x":1.5}"#, None, false),
            (r#"{"stream":-1}"#, None, false),
            (r#"{"stream":1.5}"#, None, false),
            (r#"{"stream":{"true":[true]}, "model":"m"}"#, Some("m"), false),
            (&format!(r#"{{"stream":{long}, "y":{long}, "model":"m"}}"#), Some("m"), false),
            (&deep, None, false),
        ] {
            let fields = read(&Bytes::from(body.to_owned())).await.unwrap();
            assert_eq!((fields.model.as_deref(), fields.stream.0), (model, stream), "{}", body.len());
        }
        for body in ["", "[1, 2", "7", r#"{"model":7}"#, r#"{"stream":[}"#] {
            assert!(read(&Bytes::from(body.to_owned())).await.is_err());
        }
    }
}
