//! Cross-origin requests (the Fetch standard, "CORS protocol"): preflights are answered here, before any key is asked for,
//! and answers are marked for the origins that a function's manifest lists.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

/// What pages may read of an answer beyond its body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-gannet-error, x-gannet-start, server-timing, retry-after, ratelimit, ratelimit-policy",
);

/// The origin of a request, if a list has it.
pub(super) fn allowed<'a>(headers: &'a HeaderMap, origins: &[String]) -> Option<&'a HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let text = origin.to_str().ok()?;
    origins.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(text)).then_some(origin)
}

/// Where a request comes from.
///
/// Whether a function exists that needs a key is its tenant's to know, so preflights for it are answered like those for one that
/// does not exist: with yes, because a page without the key gets nothing by it, and one with the key is read by its tenant's
/// choice. What is no refusal is marked for listed origins only.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) asking: HeaderValue,
    /// Whether the function's manifest lists it.
    pub(super) listed: bool,
    /// Whether strangers must not find out if there is a function.
    pub(super) hidden: bool,
}

impl Origin {
    /// The origin, if it may ask whether it may send.
    pub(super) fn asks(&self) -> Option<&HeaderValue> {
        (self.listed || self.hidden).then_some(&self.asking)
    }

    /// The origin, if its pages may read an answer.
    pub(super) fn reads(&self, refused: bool) -> Option<&HeaderValue> {
        (self.listed || (self.hidden && refused)).then_some(&self.asking)
    }
}

/// Whether a request asks only whether another may be sent.
pub(super) fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The head of a preflight's answer.
pub(super) fn preflight(origin: &HeaderValue, asked: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    mark(&mut headers, origin);
    for (from, to) in [
        (ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
        (ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
    ] {
        if let Some(value) = asked.get(from) {
            headers.insert(to, value.clone());
        }
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    headers
}

/// Marks an answer for an origin. What a guest says of it is replaced.
pub(super) fn mark(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_origins_are_allowed() {
        let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("https://App.example.com"))]);
        let list = |origins: &[&str]| origins.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(allowed(&headers, &list(&["https://app.example.com"])).is_some());
        assert!(allowed(&headers, &list(&["*"])).is_some());
        assert!(allowed(&headers, &list(&["https://app.example.com.evil.org", "http://app.example.com"])).is_none());
        assert!(allowed(&HeaderMap::new(), &list(&["*"])).is_none());
    }
}
