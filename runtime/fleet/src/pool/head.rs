//! Rebuilds the head of a guest's response for the client: removes hop-by-hop headers, headers that only the
//! platform may set, and headers by which a page could affect its whole origin.

use crate::admitted::AddressingStyle;
use crate::pool::relay::ReportSource;
use gannet_base::bill::StartKind;
use gannet_base::headers::{self as gannet, strip_hop_by_hop};
use gannet_state::tab::Tab;
use http::{HeaderMap, HeaderName, HeaderValue, header as names};

/// Removes the `Domain` attribute from cookies.
fn own_cookies(headers: &mut HeaderMap) {
    if !headers.contains_key(names::SET_COOKIE) {
        return;
    }
    let own = |text: &str| {
        let parts = text.split(';').enumerate();
        let kept = parts.filter(|(at, part)| *at == 0 || !part.trim().to_ascii_lowercase().starts_with("domain"));
        kept.map(|(_, part)| part).collect::<Vec<_>>().join(";")
    };
    let cookies = headers.get_all(names::SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies: Vec<String> = cookies.map(own).collect();
    headers.remove(names::SET_COOKIE);
    for cookie in cookies {
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            headers.append(names::SET_COOKIE, value);
        }
    }
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Whether a proxy in front of the server would act on the header: send a file, or another page of the server.
fn is_for_proxies(name: &str) -> bool {
    name.starts_with("x-accel-") || matches!(name, "x-sendfile" | "x-lighttpd-send-file" | "x-reproxy-url")
}

/// Whether the header is only about its own response. Browsers and proxies act on others for the whole origin, which
/// functions that are addressed by path share with those of other tenants, and new ones appear every year. So only
/// headers that are known to be harmless pass, and names for private use, which begin with `x-`.
fn is_about_one_response(name: &str) -> bool {
    name.starts_with("x-")
        || name.starts_with("access-control-")
        || name.starts_with("content-")
        || name.starts_with("grpc-")
        || matches!(
            name,
            "accept-patch"
                | "accept-post"
                | "accept-ranges"
                | "age"
                | "allow"
                | "cache-control"
                | "cross-origin-resource-policy"
                | "date"
                | "deprecation"
                | "etag"
                | "expires"
                | "last-modified"
                | "link"
                | "location"
                | "preference-applied"
                | "ratelimit"
                | "ratelimit-policy"
                | "referrer-policy"
                | "repr-digest"
                | "retry-after"
                | "sunset"
                | "timing-allow-origin"
                | "vary"
        )
}

/// Rebuilds a guest's headers for the client.
pub(super) fn finish(
    headers: &mut HeaderMap,
    source: &ReportSource,
    tab: &Tab,
    kind: StartKind,
    (length, style): (Option<u64>, AddressingStyle),
) {
    strip_hop_by_hop(headers);
    if let Some(length) = length {
        headers.insert(names::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let removed = |name: &&HeaderName| {
        let name = name.as_str();
        let is_shared = style == AddressingStyle::Path && !is_about_one_response(name);
        is_shared || is_for_proxies(name) || name.starts_with("x-gannet-")
    };
    let removed: Vec<HeaderName> = headers.keys().filter(removed).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
    headers.remove(gannet::ERROR);
    headers.remove(gannet::SERVER_TIMING);
    // Other hosts below the same domain may belong to other tenants, so a cookie stays with its host.
    headers.remove(CLEAR_SITE_DATA);
    own_cookies(headers);
    // Functions that are addressed by path share an origin with those of other tenants. A host belongs to one function.
    if style == AddressingStyle::Path {
        headers.insert(names::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
        headers.insert(names::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    headers.insert(gannet::START, HeaderValue::from_static(kind.as_str()));
    if let Some(value) = tab.server_timing() {
        headers.insert(gannet::SERVER_TIMING, value);
    }
    // A body of known length has no trailer.
    if matches!(source, ReportSource::Frame(_)) && !headers.contains_key(names::CONTENT_LENGTH) {
        headers.insert(names::TRAILER, HeaderValue::from_static("server-timing"));
    }
}
