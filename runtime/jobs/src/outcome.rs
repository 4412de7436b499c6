//! How an attempt ended, and what an answer of a function means for its job.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Where an input or output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Its length in bytes.
    pub bytes: u64,
    /// The digest of its blob, if it is too long for a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

/// Why an attempt failed. `jobs.retry_on` lists the conditions after which a job is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The function answered with an error.
    Error,
    /// The function trapped.
    Trap,
    /// The attempt took too long.
    Timeout,
    /// Its worker ended.
    Killed,
    /// It was refused memory.
    Memory,
    /// The platform is at fault.
    Platform,
    /// Its function could not be started. That is tried again `jobs.start_attempts` times, with growing delays.
    NotStarted,
    /// It could not begin: there was no capacity, or a limit of the tenant is used up. It waits on.
    NotBegun,
}

impl Condition {
    /// Returns the word for it in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Killed => "killed",
            Self::Memory => "memory",
            Self::Platform => "platform",
            Self::NotStarted => "not_started",
            Self::NotBegun => "not_begun",
        }
    }
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub condition: Condition,
    /// The stable code.
    pub code: String,
    /// In words.
    pub message: String,
    /// Whether the same input is sure to fail again.
    pub is_permanent: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With an output.
    Completed {
        /// The output, which is stored already.
        output: Payload,
    },
    /// Without one.
    Failed(Failure),
}

/// Characters of a function's error that a job keeps.
const ERROR_CHARACTERS_MAX: usize = 4_000;

/// What a function's answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An output, as JSON.
    Output(Vec<u8>),
    /// An error.
    Error(Failure),
}

fn failure(code: &str, message: String, is_permanent: bool) -> Answer {
    Answer::Error(Failure { condition: Condition::Error, code: code.into(), message, is_permanent })
}

/// Returns what a function's error means that passes on an error of the GPU, as the SDK's problems do. None: nothing but
/// that it is an error.
fn condition_of_problem(code: &str) -> Option<Condition> {
    match code {
        "gpu_memory_quota" => Some(Condition::Memory),
        "loop_budget_exhausted" => Some(Condition::Trap),
        "deadline_exceeded" => Some(Condition::Timeout),
        _ => None,
    }
}

/// Shortens a text.
pub fn shortened(text: &str) -> String {
    text.chars().take(ERROR_CHARACTERS_MAX).collect()
}

/// Reads a function's answer: JSON is the output, other text becomes a JSON string. A status that is no success, and an
/// object with the key `error`, as Runpod's handlers return it, are errors.
pub fn read_answer(status: u16, body: &[u8]) -> Answer {
    if !(200..300).contains(&status) {
        let object = std::str::from_utf8(body).ok().and_then(error_object);
        let told = object.as_ref().and_then(|object| text_of(object, true));
        let text = shortened(&told.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()));
        let message = if text.trim().is_empty() { format!("the function answered with status {status}") } else { text };
        let code = object.and_then(|object| object.code).unwrap_or_default();
        return match condition_of_problem(&code) {
            Some(condition) => Answer::Error(Failure { condition, code: code.into(), message, is_permanent: false }),
            None => failure("function_error", message, false),
        };
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Answer::Output(b"null".to_vec());
    }
    match serde_json::from_slice::<&RawValue>(body) {
        Ok(json) => match error_object(json.get()).and_then(|object| text_of(&object, false)) {
            Some(message) => failure("function_error", shortened(&message), false),
            None => Answer::Output(json.get().as_bytes().to_vec()),
        },
        Err(_) => match std::str::from_utf8(body).map(serde_json::to_vec) {
            Ok(Ok(text)) => Answer::Output(text),
            _ => failure(
                "output_invalid",
                format!("the function's answer of {} bytes is neither JSON nor UTF-8 text", body.len()),
                true,
            ),
        },
    }
}

/// What an object says of an error.
#[derive(Deserialize)]
struct WithError<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "text_or_none")]
    code: Option<Cow<'a, str>>,
}

/// Reads a text; anything else is none.
fn text_or_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    let value = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str::<String>(value.get()).ok().map(Cow::Owned))
}

fn error_object(json: &str) -> Option<WithError<'_>> {
    if !json.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// Returns the error that an object holds under `error`; of a problem (RFC 9457) also its detail.
fn text_of(object: &WithError<'_>, is_problem: bool) -> Option<String> {
    let error = object.error.or(object.detail.filter(|_| is_problem))?;
    Some(serde_json::from_str::<String>(error.get()).unwrap_or_else(|_| error.get().to_owned()))
}

/// Returns the condition, if an attempt was refused with this code, or its function was out of memory.
pub fn condition_of(code: &str, is_platform: bool, is_out_of_memory: bool) -> Condition {
    match code {
        _ if is_out_of_memory => Condition::Memory,
        "no_capacity" | "draining" | "spend_limit" | "tenant_limit" | "tenant_suspended" => Condition::NotBegun,
        "function_cannot_start" => Condition::NotStarted,
        // Its worker ends again and again: it is tried a bounded number of times.
        "function_backing_off" => Condition::Platform,
        _ if is_platform => Condition::Platform,
        "deadline_exceeded" | "client_too_slow" => Condition::Timeout,
        "function_killed" | "response_broken_off" => Condition::Killed,
        "function_trapped" | "component_refused" => Condition::Trap,
        _ => Condition::Error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn output(text: &str) -> Answer {
        Answer::Output(text.as_bytes().to_vec())
    }

    #[test]
    fn json_is_the_output_and_errors_are_told() {
        assert_eq!(read_answer(200, b" {\"a\": 1}\n"), output("{\"a\": 1}"));
        assert_eq!(read_answer(200, b"[{\"error\":1}]"), output("[{\"error\":1}]"));
        assert_eq!(read_answer(200, b"{\"error\":null}"), output("{\"error\":null}"));
        assert_eq!(read_answer(204, b""), output("null"));
        assert_eq!(read_answer(200, b"plain"), output("\"plain\""));
        let message = |status, body: &[u8]| match read_answer(status, body) {
            Answer::Error(failure) => (failure.code, failure.message),
            Answer::Output(output) => panic!("{output:?}"),
        };
        assert_eq!(message(200, b"{\"error\": \"why\"}"), ("function_error".into(), "why".into()));
        assert_eq!(message(200, b"{\"b\":1,\"error\":{\"c\":2}}").1, "{\"c\":2}");
        assert_eq!(message(500, b"oops").1, "oops");
        let condition = |body: &str| match read_answer(502, body.as_bytes()) {
            Answer::Error(failure) => (failure.condition, failure.code),
            Answer::Output(output) => panic!("{output:?}"),
        };
        let quota = r#"{"status":502,"code":"gpu_memory_quota","detail":"gpu_memory_mib = 64"}"#;
        assert_eq!(condition(quota), (Condition::Memory, "gpu_memory_quota".into()));
        assert_eq!(condition(r#"{"code":"loop_budget_exhausted"}"#).0, Condition::Trap);
        assert_eq!(condition(r#"{"code":"deadline_exceeded"}"#).0, Condition::Timeout);
        for other in [r#"{"code":"no_capacity"}"#, r#"{"code":7,"detail":"x"}"#, r#"{"code":null}"#, "[]"] {
            assert_eq!(condition(other), (Condition::Error, "function_error".into()), "{other}");
        }
        assert_eq!(message(500, b"{\"status\":500,\"detail\":\"why\"}").1, "why");
        assert_eq!(read_answer(200, b"{\"detail\":1}"), output("{\"detail\":1}"));
        assert_eq!(message(404, b"").1, "the function answered with status 404");
        assert_eq!(message(200, b"\xff\xfe").0, "output_invalid");
    }

    proptest! {
        #[test]
        fn an_output_is_always_json(status in 200u16..300, body: Vec<u8>) {
            if let Answer::Output(output) = read_answer(status, &body) {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&output).is_ok());
            }
        }
    }
}
