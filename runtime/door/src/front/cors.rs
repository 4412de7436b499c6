//! Cross-origin requests (the Fetch standard, "CORS protocol"). Responds to preflights before the key is checked, and
//! adds CORS headers to responses for the origins that a function's manifest lists.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

/// The response headers that pages of other origins may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-gannet-error, x-gannet-start, server-timing, retry-after, ratelimit, ratelimit-policy",
);

/// Returns the origin of a request if `origins` lists it or `*`.
pub(super) fn allowed<'a>(headers: &'a HeaderMap, origins: &[String]) -> Option<&'a HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let text = origin.to_str().ok()?;
    origins.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(text)).then_some(origin)
}

/// The origin of a request, and what it may do.
///
/// Only the tenant may learn whether a function exists that needs a key, so preflights for such a function and for one
/// that does not exist are treated alike. Both are allowed: a page without the key gains nothing by it, and a page that
/// has the key got it by the tenant's choice. Responses that are not refusals get CORS headers for listed origins only.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) asking: HeaderValue,
    /// Whether the function's manifest lists it.
    pub(super) listed: bool,
    /// Whether the function needs a key or does not exist. Callers without a key must not learn which.
    pub(super) hidden: bool,
}

impl Origin {
    /// Returns the origin if its preflights are allowed.
    pub(super) fn asks(&self) -> Option<&HeaderValue> {
        (self.listed || self.hidden).then_some(&self.asking)
    }

    /// Returns the origin if its pages may read the response. `refused` says whether the response is a refusal.
    pub(super) fn reads(&self, refused: bool) -> Option<&HeaderValue> {
        (self.listed || (self.hidden && refused)).then_some(&self.asking)
    }
}

/// Whether a request is a preflight, which asks whether the browser may send another request.
pub(super) fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns the headers of the response to a preflight. They allow the method and the headers that it asks for.
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

/// Adds the CORS headers that let `origin` read a response. They replace those that a guest has set.
pub(super) fn mark(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    vary(headers);
}

/// Says that a response depends on the origin of the page that asks.
pub(super) fn vary(headers: &mut HeaderMap) {
    let has = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',');
        names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"origin"))
    };
    if !headers.get_all(VARY).iter().any(has) {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
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
