//! Trailers: fields that follow a body (RFC 9110, 6.5), as gRPC uses them for the outcome of a call.
//!
//! Only fields that mean the same after the body pass. A recipient that merges trailers into the head must not change
//! how it frames, routes, authenticates or caches the message by them (RFC 9110, 6.5.1).

use http::header::{TE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Most fields of the trailers of one message.
pub const FIELDS_MAX: usize = 128;

/// Fields that must not be trailers, because the message is framed, routed or authenticated by them, or because they
/// change what the recipient does with it.
const REFUSED: [&str; 34] = [
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "http2-settings",
    "host",
    "forwarded",
    "x-request-id",
    "authorization",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "cache-control",
    "expect",
    "max-forwards",
    "pragma",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "age",
    "date",
    "expires",
    "location",
    "retry-after",
    "vary",
    "warning",
    "clear-site-data",
    "strict-transport-security",
    "server-timing",
];

/// Whether a field may be a trailer. `server-timing` may not, because only the server itself sends it.
pub fn is_allowed(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_content = name.starts_with("content-") && name != "content-digest";
    let is_ours = name.starts_with("x-gannet-") || name.starts_with("x-forwarded-") || name.starts_with("proxy-");
    !is_content && !is_ours && !REFUSED.contains(&name)
}

/// Removes the fields that may not be trailers.
pub fn clean(trailers: &mut HeaderMap) {
    let refused: Vec<HeaderName> = trailers.keys().filter(|name| !is_allowed(name)).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
}

/// Returns the bytes of the fields, as the bill counts them.
pub fn bytes(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Returns the value of a `trailer` header with these names, or None if there are none.
pub fn declaration<'a>(names: impl IntoIterator<Item = &'a HeaderName>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.into_iter().map(HeaderName::as_str).collect();
    if names.is_empty() { None } else { HeaderValue::try_from(names.join(", ")).ok() }
}

/// What the headers of a connection say about trailers. They are removed with the others of the connection, and put back
/// for the next one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TrailerHeaders {
    /// Whether the client reads trailers (`te: trailers`).
    pub wanted: bool,
    /// Names of the fields that will follow the body (`trailer`), without those that may not.
    pub declared: Vec<HeaderName>,
}

impl TrailerHeaders {
    /// Reads them from the headers of a message.
    pub fn of(headers: &HeaderMap) -> Self {
        let items = |name: HeaderName| {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|text| text.split(',')).map(str::trim).take(FIELDS_MAX).collect::<Vec<_>>()
        };
        let is_trailers =
            |item: &&str| item.split(';').next().is_some_and(|name| name.eq_ignore_ascii_case("trailers"));
        Self {
            wanted: items(TE).iter().any(is_trailers),
            declared: items(TRAILER).into_iter().filter_map(|name| name.parse().ok()).filter(is_allowed).collect(),
        }
    }

    /// Puts them into the headers of a request.
    pub fn put_into_request(&self, headers: &mut HeaderMap) {
        if self.wanted {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        self.put_into_response(headers);
    }

    /// Puts them into the headers of a response, which has no `te`.
    pub fn put_into_response(&self, headers: &mut HeaderMap) {
        if let Some(value) = declaration(&self.declared) {
            headers.insert(TRAILER, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn fields_by_which_a_message_is_framed_or_judged_are_no_trailers() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("x-checksum", "1"),
            ("etag", "2"),
            ("content-digest", "3"),
            ("content-length", "4"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("authorization", "x"),
            ("proxy-status", "x"),
            ("x-gannet-error", "x"),
            ("x-forwarded-for", "x"),
            ("server-timing", "x"),
        ]);
        clean(&mut trailers);
        let mut kept: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["content-digest", "etag", "grpc-status", "x-checksum"]);
    }

    #[test]
    fn what_a_message_says_of_trailers_is_put_back() {
        let headers = map(&[("te", "gzip, Trailers;q=1"), ("trailer", "grpc-status, content-length, X-Sum, b d")]);
        let said = TrailerHeaders::of(&headers);
        let mut rebuilt = HeaderMap::new();
        said.put_into_request(&mut rebuilt);
        assert_eq!(rebuilt, map(&[("te", "trailers"), ("trailer", "grpc-status, x-sum")]));
        assert_eq!(TrailerHeaders::of(&HeaderMap::new()), TrailerHeaders::default());
    }
}
