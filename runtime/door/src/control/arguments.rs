//! Reads the arguments of a control request: its query and its small JSON body. Unknown arguments and fields are
//! refused by name.

use crate::control::error::ControlError;
use crate::control::operations::{Operation, QueryParameter};
use crate::control::upload;
use gannet_base::time::{Day, day_of};
use gannet_fleet::inbound::InboundRequest;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// The largest body of a control request that is not an upload, in bytes.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// Items in a page: the default, and the most that a request may ask for.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// The arguments of a query, checked against those of the operation.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

fn invalid(text: impl Into<String>) -> ControlError {
    ControlError::Invalid(text.into())
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Returns the name of an argument.
pub(super) fn name_of(argument: &QueryParameter) -> &'static str {
    match argument {
        QueryParameter::Limit => "limit",
        QueryParameter::Cursor => "cursor",
        QueryParameter::Day(name) | QueryParameter::OneOf(name, _) | QueryParameter::Flag(name) => name,
        QueryParameter::Tag => "tag",
        QueryParameter::Request => "request",
        QueryParameter::Digest => "digest",
    }
}

impl Query {
    /// Reads the query of a request and checks every argument.
    pub(super) fn read(inbound: &InboundRequest, operation: &Operation) -> Result<Self, ControlError> {
        let mut found = BTreeMap::new();
        let text = inbound.parts.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !operation.arguments.iter().any(|argument| name_of(argument) == name) {
                let known: Vec<_> = operation.arguments.iter().map(name_of).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(invalid(format!("unknown argument {:?}; known: {known}", cut(&name))));
            }
            if found.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(invalid(format!("the argument {:?} is given twice", cut(&name))));
            }
        }
        let query = Self(found);
        for argument in operation.arguments {
            query.check(argument)?;
        }
        Ok(query)
    }

    fn check(&self, argument: &QueryParameter) -> Result<(), ControlError> {
        match argument {
            QueryParameter::Limit => self.limit().map(drop),
            QueryParameter::Flag(name) => self.flag(name).map(drop),
            QueryParameter::Day(name) => self.day(name).map(drop),
            QueryParameter::OneOf(name, words) => match self.get(name) {
                Some(word) if !words.contains(&word) => {
                    Err(invalid(format!("{name} = {:?}; it may be {}", cut(word), words.join(", "))))
                }
                _ => Ok(()),
            },
            QueryParameter::Digest => match self.get("digest") {
                Some(text) if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                    Err(invalid(format!("digest = {:?}; it is SHA-256 in hex", cut(text))))
                }
                _ => Ok(()),
            },
            QueryParameter::Cursor | QueryParameter::Tag | QueryParameter::Request => Ok(()),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns how many items a page may have.
    pub(super) fn limit(&self) -> Result<usize, ControlError> {
        let Some(text) = self.get("limit") else { return Ok(PAGE) };
        let limit = text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
        limit.ok_or_else(|| invalid(format!("limit = {:?}; it may be 1 to {PAGE_MAX}", cut(text))))
    }

    /// Returns the value of a flag; false if it is left out.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ControlError> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(invalid(format!("{name} = {:?}; it may be true or false", cut(other)))),
        }
    }

    /// Returns a day, written as in 2026-11-24.
    pub(super) fn day(&self, name: &str) -> Result<Option<Day>, ControlError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let date: Option<jiff::civil::Date> = (text.len() == 10).then(|| text.parse().ok()).flatten();
        let midnight = date.map(|date| date.to_datetime(jiff::civil::Time::midnight()));
        let day = midnight.and_then(|time| jiff::tz::Offset::UTC.to_timestamp(time).ok()).map(day_of);
        day.map(Some).ok_or_else(|| invalid(format!("{name} = {:?}; it is a day as in 2026-11-24", cut(text))))
    }
}

/// Refuses a body whose media type is not JSON.
fn is_json(headers: &HeaderMap) -> Result<(), ControlError> {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/merge-patch+json" => Ok(()),
        "" => Err(ControlError::NotJson("of no type".into())),
        other => Err(ControlError::NotJson(other.chars().take(100).collect())),
    }
}

/// Reads a JSON object from the body. Returns None for an empty body that is not `needed`.
pub(super) async fn json<T: DeserializeOwned>(
    inbound: InboundRequest,
    needed: bool,
) -> Result<Option<T>, ControlError> {
    let typed = is_json(&inbound.parts.headers);
    let body = upload::collect(inbound.body, BODY_BYTES_MAX, "body").await?;
    if body.is_empty() && !needed {
        return Ok(None);
    }
    typed?;
    let body_error = |error: serde_json::Error| invalid(format!("the body: {error}"));
    let value: Value = serde_json::from_slice(&body).map_err(body_error)?;
    if !value.is_object() {
        return Err(invalid("the body is not a JSON object"));
    }
    serde_json::from_value(whole_numbers(value)).map(Some).map_err(body_error)
}

/// Converts numbers like 3.0 to integers, because JSON does not distinguish the two.
fn whole_numbers(mut value: Value) -> Value {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let mut left = vec![&mut value];
    while let Some(value) = left.pop() {
        match value {
            Value::Number(number) => {
                let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0);
                #[expect(clippy::cast_possible_truncation, reason = "it is whole, and exact up to there")]
                if let Some(float) = float.filter(|float| float.abs() <= EXACT_MAX) {
                    *number = (float as i64).into();
                }
            }
            Value::Array(items) => left.extend(items.iter_mut()),
            Value::Object(fields) => left.extend(fields.values_mut()),
            _ => {}
        }
    }
    value
}

/// Reads a JSON object from the body, and refuses an empty body.
pub(super) async fn json_needed<T: DeserializeOwned>(inbound: InboundRequest) -> Result<T, ControlError> {
    json(inbound, true).await?.ok_or_else(|| invalid("the body is missing"))
}
