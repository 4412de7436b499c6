//! What was posted to a hook: the input of its job, and how the same delivery is known again.
//!
//! The input is `{"hook", "headers", "query", "encoding", "body"}`. A body of JSON is in it byte for byte; a text is a
//! string; anything else is base64. Headers that carry credentials, or that belong to the connection, are left out.

use super::headers::Headers;
use super::record::Hook;
use super::signed::Verify;
use crate::job::Millis;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// How long a delivery is known by its id, in milliseconds.
const ID_MS: Millis = 24 * 3_600_000;
/// Bytes of an id.
const ID_BYTES_MAX: usize = 255;
/// Headers in which an id is looked for.
const ID_HEADERS: [&str; 2] = ["webhook-id", "x-github-delivery"];

/// The value of a parameter of the query: a text, or all texts in their order if it is there several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Parameter {
    One(String),
    Several(Vec<String>),
}

/// What was posted.
#[derive(Debug)]
pub struct Event {
    /// Its headers.
    pub headers: Headers,
    /// The parameters of its query.
    pub query: Vec<(String, String)>,
    /// Its body.
    pub body: bytes::Bytes,
}

/// How a delivery is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What it is known by. No client can send an idempotency key like it.
    pub key: String,
    /// The digest of its body.
    pub body: String,
    /// How long, in milliseconds.
    pub keep_ms: Millis,
}

#[derive(Serialize)]
struct Input<'a> {
    hook: &'a str,
    headers: BTreeMap<&'a str, &'a str>,
    query: BTreeMap<String, Parameter>,
    encoding: &'static str,
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

/// Whether a body with this media type may be JSON. A body without one may.
fn may_be_json(media_type: Option<&str>) -> bool {
    let Some(media_type) = media_type else { return true };
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json") || media_type == "text/json"
}

/// Whether a text takes at most twice its bytes as a string of JSON.
fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t'))
}

impl Event {
    /// Returns the input of its job, as JSON.
    pub fn input(&self, hook: &Hook) -> serde_json::Result<Vec<u8>> {
        let mut query: BTreeMap<String, Parameter> = BTreeMap::new();
        for (name, value) in &self.query {
            let value = value.clone();
            match query.get_mut(name) {
                None => drop(query.insert(name.clone(), Parameter::One(value))),
                Some(Parameter::Several(all)) => all.push(value),
                Some(one) => {
                    if let Parameter::One(first) = one {
                        *one = Parameter::Several(vec![std::mem::take(first), value]);
                    }
                }
            }
        }
        let json = may_be_json(self.headers.get("content-type"));
        let json: Option<&RawValue> = serde_json::from_slice(&self.body).ok().filter(|_| json);
        let text = std::str::from_utf8(&self.body).ok().filter(|text| is_plain(text));
        let (encoding, body) = match (json, text) {
            (Some(json), _) => ("json", Body::Json(json)),
            (None, Some(text)) => ("text", Body::Text(text)),
            (None, None) => ("base64", Body::Base64(BASE64_STANDARD.encode(&self.body))),
        };
        let headers = self.headers.for_functions();
        serde_json::to_vec(&Input { hook: hook.name.as_str(), headers, query, encoding, body })
    }

    /// Returns how this delivery is known again: by its id, else by its body for a while. None: it is not. An id that the
    /// signature does not cover counts only if the hook names its header: whoever has recorded a delivery could post it
    /// again with another one.
    pub fn delivery(&self, hook: &Hook) -> Result<Option<Delivery>, String> {
        let own = hook.id_header.as_deref();
        let is_usual = own.is_none() && matches!(hook.verify, Verify::Url | Verify::Standard);
        let names = own.into_iter().chain(ID_HEADERS.into_iter().filter(|_| is_usual));
        let id = names.filter_map(|name| Some((name, self.headers.get(name)?))).find(|(_, id)| !id.is_empty());
        let body = hex::encode(Sha256::digest(&self.body));
        let key = |kind: &str, what: &str| format!("hook\u{1f}{}\u{1f}{kind}\u{1f}{what}", hook.name);
        match id {
            Some((name, id)) if id.len() > ID_BYTES_MAX => {
                Err(format!("the header {name} has {} bytes; the limit is {ID_BYTES_MAX}", id.len()))
            }
            Some((_, id)) => Ok(Some(Delivery { key: key("id", id), body, keep_ms: ID_MS })),
            None if hook.window_s == 0 => Ok(None),
            None => {
                let keep_ms = i64::try_from(hook.window_s.saturating_mul(1_000)).unwrap_or(ID_MS);
                Ok(Some(Delivery { key: key("body", &body), body, keep_ms }))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::record::{NewHook, TokenHash};
    use super::*;
    use gannet_base::names::{FunctionName, TenantName};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn hook(more: &str) -> Hook {
        let new: NewHook = serde_json::from_str(&format!("{{\"name\": \"source\"{more}}}")).unwrap();
        let names = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        new.hook(names, TokenHash::of("t"), None, 0)
    }

    fn event(headers: &[(&str, &str)], body: &[u8]) -> Event {
        let headers = Headers::new(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Event { headers, query: Vec::new(), body: bytes::Bytes::copy_from_slice(body) }
    }

    #[test]
    fn a_body_is_json_text_or_base64() {
        let input = |media_type: Option<&str>, body: &[u8]| {
            let fields: Vec<_> = media_type.map(|media_type| ("content-type", media_type)).into_iter().collect();
            let input = event(&fields, body).input(&hook("")).unwrap();
            let read: Value = serde_json::from_slice(&input).unwrap();
            (read["encoding"].as_str().unwrap().to_owned(), read["body"].clone())
        };
        let is = |encoding: &str, body: Value| (encoding.to_owned(), body);
        assert_eq!(input(Some("application/json; charset=utf-8"), b"{\"a\": 1}"), is("json", json!({ "a": 1 })));
        assert_eq!(input(Some("application/cloudevents+json"), b"[1]"), is("json", json!([1])));
        assert_eq!(input(None, b"true"), is("json", json!(true)));
        assert_eq!(input(Some("application/json"), b"{\"a\": "), is("text", json!("{\"a\": ")));
        assert_eq!(input(Some("text/plain"), b"1"), is("text", json!("1")));
        assert_eq!(input(Some("application/x-www-form-urlencoded"), b"a=1&b=2"), is("text", json!("a=1&b=2")));
        assert_eq!(input(None, b""), is("text", json!("")));
        assert_eq!(input(None, b"a\0b"), is("base64", json!("YQBi")));
        assert_eq!(input(None, &[0xff, 0xfe]), is("base64", json!("//4=")));
        let exact = event(&[], b"{\"n\":1.50}").input(&hook("")).unwrap();
        assert!(String::from_utf8(exact).unwrap().contains("\"body\":{\"n\":1.50}"), "byte for byte");
    }

    #[test]
    fn a_function_gets_no_credentials_and_all_else() {
        let mut event = event(
            &[
                ("x-event", "push"),
                ("x-event", "again"),
                ("authorization", "Basic x"),
                ("cookie", "a=b"),
                ("x-gannet-tenant", "other"),
                ("x-forwarded-for", "1.2.3.4"),
            ],
            b"",
        );
        event.query =
            [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")].map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        let input: Value = serde_json::from_slice(&event.input(&hook("")).unwrap()).unwrap();
        assert_eq!(input["headers"], json!({ "x-event": "push, again" }));
        assert_eq!((&input["query"], &input["hook"]), (&json!({ "a": ["1", "3", "4"], "b": "2" }), &json!("source")));
    }

    #[test]
    fn a_delivery_is_known_by_its_id_else_by_its_body_for_a_while() {
        let key = |hook: &Hook, headers: &[(&str, &str)], body: &[u8]| event(headers, body).delivery(hook).unwrap();
        let usual = hook("");
        let by_id = key(&usual, &[("webhook-id", "m1"), ("x-github-delivery", "g1")], b"x").unwrap();
        assert!(by_id.key.ends_with("source\u{1f}id\u{1f}m1") && by_id.keep_ms == ID_MS);
        assert!(key(&usual, &[("x-github-delivery", "g1")], b"x").unwrap().key.ends_with("id\u{1f}g1"));
        let by_body = key(&usual, &[], b"x").unwrap();
        assert_eq!((by_body.keep_ms, &by_body.body), (300_000, &by_id.body));
        assert_ne!(by_body.key, key(&usual, &[], b"y").unwrap().key);
        let own = hook(", \"id_header\": \"x-id\", \"window_s\": 0");
        assert!(key(&own, &[("x-id", "7"), ("webhook-id", "m1")], b"x").unwrap().key.ends_with("id\u{1f}7"));
        assert_eq!(key(&own, &[("webhook-id", "m1")], b"x"), None, "another header does not count");
        for signed in ["hmac-sha256", "stripe"] {
            let signed = hook(&format!(", \"verify\": \"{signed}\""));
            let replayed = ["g1", "g2"].map(|id| key(&signed, &[("x-github-delivery", id), ("webhook-id", id)], b"x"));
            assert!(replayed.iter().all(|known| *known == replayed[0] && known.as_ref().unwrap().keep_ms == ID_MS));
        }
        let standard = hook(", \"verify\": \"standard\"");
        assert!(key(&standard, &[("webhook-id", "m1")], b"x").unwrap().key.ends_with("id\u{1f}m1"));
        let long = "x".repeat(256);
        let told = event(&[("webhook-id", &long)], b"").delivery(&usual).unwrap_err();
        assert!(told.contains("webhook-id has 256 bytes; the limit is 255"), "{told}");
    }

    proptest! {
        #[test]
        fn every_body_gives_an_input_of_bounded_size(body in proptest::collection::vec(any::<u8>(), 0..300), media in "[a-z/+]{0,20}") {
            let input = event(&[("content-type", &media)], &body).input(&hook("")).unwrap();
            prop_assert!(serde_json::from_slice::<Value>(&input).is_ok());
            prop_assert!(input.len() <= 2 * body.len() + 200);
        }
    }
}
