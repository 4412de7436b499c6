//! The response for a guest that failed, and the receipt in the head of any response.
//!
//! The status here is only between worker and front door, which alone chooses what clients see.

use crate::worker::response::body::ResponseBody;
use bytes::Bytes;
use gannet_base::hop::{Fault, FaultCode, Work, header};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// A longer detail is cut off, because it travels in a header.
const DETAIL_CHARACTERS_MAX: usize = 2000;

/// Makes the response for a failure.
pub(crate) fn fault(mut work: Work, code: FaultCode, detail: &str) -> Response<ResponseBody> {
    let detail = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
    work.fault = Some(Fault { code, detail });
    let mut response = Response::new(ResponseBody::Complete(Bytes::new()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    add_receipt(response.headers_mut(), &work);
    response.headers_mut().insert(header::FAULT, HeaderValue::from_static("1"));
    response
}

/// The fault of a guest that passed a time limit.
pub(super) fn overtime(what: &str, limit_name: &str, limit_ms: u64) -> Fault {
    let detail = format!("the function {what}: limits.{limit_name} = {limit_ms}");
    Fault { code: FaultCode::DeadlineExceeded, detail }
}

/// The fault of a guest whose body ended with an error.
pub(super) fn broken_body(error: &impl std::fmt::Display) -> Fault {
    Fault { code: FaultCode::FunctionTrapped, detail: format!("the function's body broke off: {error}") }
}

/// Adds the receipt to the head of a response.
pub(super) fn add_receipt(headers: &mut HeaderMap, work: &Work) {
    let value = serde_json::to_string(work).ok().and_then(|text| HeaderValue::from_str(&escape(&text)).ok());
    if let Some(value) = value {
        headers.insert(header::WORK, value);
    }
}

/// Makes JSON fit a header. What is not printable ASCII can only be inside JSON's strings, where an escape may replace it.
fn escape(json: &str) -> String {
    if json.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return json.to_owned();
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for unit in json.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (0x20..0x7f).contains(&byte) => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\u{unit:04x}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_detail_fits_a_header_and_comes_back() {
        let work = Work {
            fault: Some(Fault { code: FaultCode::FunctionTrapped, detail: "zeile\n\"ü\" 🦀 \u{7f}".into() }),
            ..Work::default()
        };
        let mut headers = HeaderMap::new();
        add_receipt(&mut headers, &work);
        let value = headers.get(header::WORK).and_then(|value| value.to_str().ok());
        assert_eq!(value.and_then(|text| serde_json::from_str(text).ok()), Some(work));
    }
}
