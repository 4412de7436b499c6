//! The HTTP headers that Gannet defines or adds, and the removal of hop-by-hop headers.

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::io::Write;

/// Request header: the API key, when `Authorization` belongs to the function.
pub const KEY: HeaderName = HeaderName::from_static("x-gannet-key");
/// Request header of the operator: the tenant that it acts for.
pub const TENANT: HeaderName = HeaderName::from_static("x-gannet-tenant");
/// Request header: the tag of a version, when the path does not name one.
pub const TAG: HeaderName = HeaderName::from_static("x-gannet-tag");
/// Response header: the stable code of a refusal. A function's own response never has it.
pub const ERROR: HeaderName = HeaderName::from_static("x-gannet-error");
/// The id of the job that a request is an attempt of.
pub const JOB_ID: HeaderName = HeaderName::from_static("x-gannet-job-id");
/// The number of that attempt, from 1.
pub const JOB_ATTEMPT: HeaderName = HeaderName::from_static("x-gannet-job-attempt");
/// The function that sent the request, if it is a call by another function of the tenant.
pub const CALLER: HeaderName = HeaderName::from_static("x-gannet-caller");
/// Response header: the request's id. The request that a function receives has it too.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Response header: how the request started, `hot`, `warm` or `cold`.
pub const START: HeaderName = HeaderName::from_static("x-gannet-start");
/// Response header or trailer: where the request's time went (W3C Server Timing).
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Removes the headers that belong to one connection only, including those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, CONTENT_LENGTH] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings"] {
        headers.remove(name);
    }
}

/// The headers announce a length in a form that HTTP does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("content-length is not one number")]
pub struct InvalidLength;

/// Returns the length that `content-length` announces. Stricter than the parsers of numbers, which accept a sign: two
/// programs must not read a length in two ways.
pub fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, InvalidLength> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().map_err(|_| InvalidLength)?;
    if values.next().is_some() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidLength);
    }
    text.parse().map(Some).map_err(|_| InvalidLength)
}

/// Most values that the server formats are shorter.
const VALUE_BYTES: usize = 256;

/// Formats a header's value. `None` if the text is no valid value.
pub fn header_value(text: fmt::Arguments<'_>) -> Option<HeaderValue> {
    // Formatted on the stack, because every response has several of them.
    let mut buffer = [0; VALUE_BYTES];
    let mut rest = &mut buffer[..];
    if rest.write_fmt(text).is_err() {
        return HeaderValue::try_from(text.to_string()).ok();
    }
    let length = VALUE_BYTES - rest.len();
    HeaderValue::from_bytes(buffer.get(..length)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_one_number_of_digits() {
        let announced = |values: &[&'static str]| {
            let values = values.iter().map(|value| (CONTENT_LENGTH, HeaderValue::from_static(value)));
            announced_length(&values.collect())
        };
        assert_eq!((announced(&[]), announced(&["0"]), announced(&["17"])), (Ok(None), Ok(Some(0)), Ok(Some(17))));
        for invalid in [&["+5"][..], &["-1"], &[""], &["5 "], &["0x5"], &["18446744073709551616"], &["5", "5"]] {
            assert_eq!(announced(invalid), Err(InvalidLength), "{invalid:?}");
        }
    }

    #[test]
    fn values_of_any_length_are_formatted() {
        for length in [0, 1, VALUE_BYTES, VALUE_BYTES + 1, 10 * VALUE_BYTES] {
            let text = "x".repeat(length);
            assert_eq!(
                header_value(format_args!("{text}")).map(|value| value.as_bytes().to_vec()),
                Some(text.into_bytes())
            );
        }
        assert_eq!(header_value(format_args!("a\nb")), None);
    }
}
