//! Rebuilds the head of a guest's response for the client: removes hop-by-hop headers, headers that only the
//! platform may set, and headers by which a page could affect its whole origin.

use crate::admitted::AddressingStyle;
use crate::pool::allowed_headers::may_pass;
use crate::pool::relay::ReportSource;
use gannet_base::bill::StartKind;
use gannet_base::headers::{self as gannet, strip_hop_by_hop};
use gannet_base::trailers::TrailerHeaders;
use gannet_state::tab::Tab;
use http::{HeaderMap, HeaderName, HeaderValue, header as names};

/// Removes the `Domain` attribute from cookies.
fn own_cookies(headers: &mut HeaderMap) {
    if !headers.contains_key(names::SET_COOKIE) {
        return;
    }
    // Values are bytes: a cookie need not be ASCII.
    let is_domain = |part: &[u8]| part.trim_ascii().to_ascii_lowercase().starts_with(b"domain");
    let own = |value: &HeaderValue| {
        let parts = value.as_bytes().split(|byte| *byte == b';').enumerate();
        let kept: Vec<&[u8]> = parts.filter(|(at, part)| *at == 0 || !is_domain(part)).map(|(_, part)| part).collect();
        HeaderValue::from_bytes(&kept.join(&b';')).ok()
    };
    let cookies: Vec<HeaderValue> = headers.get_all(names::SET_COOKIE).iter().filter_map(own).collect();
    headers.remove(names::SET_COOKIE);
    for cookie in cookies {
        headers.append(names::SET_COOKIE, cookie);
    }
}

/// Where the function is, for its clients.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) style: AddressingStyle,
    /// The part of a URL's path that names the function, and that the guest does not see.
    pub(super) prefix: Option<String>,
    /// The host that the client named.
    pub(super) host: Option<HeaderValue>,
    /// Whether its responses depend on the origin of the page that asks.
    pub(super) varies: bool,
}

/// Keeps a redirect of a function inside the function: its paths begin where the guest sees them begin. Returns None for
/// a reference that needs no change: a relative one, or one to another host.
fn inside(location: &HeaderValue, prefix: &str, host: Option<&HeaderValue>) -> Option<HeaderValue> {
    let text = location.to_str().ok()?;
    let (origin, path) = match text.strip_prefix('/') {
        // The name of a host follows.
        Some(rest) if rest.starts_with('/') => return None,
        Some(_) => ("", text),
        None => {
            let (scheme, rest) = text.split_once("://")?;
            if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
                return None;
            }
            let after = text.len() - rest.len();
            let length = rest.find(['/', '?', '#']).map_or(text.len(), |at| after + at);
            let own = host.and_then(|host| host.to_str().ok())?;
            if !text.get(after..length)?.eq_ignore_ascii_case(own) {
                return None;
            }
            text.split_at(length)
        }
    };
    let is_inside = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    if is_inside {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    HeaderValue::try_from(format!("{origin}{prefix}{slash}{path}")).ok()
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Rebuilds a guest's headers for the client.
pub(super) fn finish(
    headers: &mut HeaderMap,
    source: &ReportSource,
    tab: &Tab,
    kind: StartKind,
    (length, place): (Option<u64>, &Place),
) {
    let mut of_trailers = TrailerHeaders::of(headers);
    strip_hop_by_hop(headers);
    if let Some(length) = length {
        headers.insert(names::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let removed: Vec<HeaderName> = headers.keys().filter(|name| !may_pass(name, place.style)).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
    headers.remove(gannet::ERROR);
    headers.remove(gannet::SERVER_TIMING);
    // Other hosts below the same domain may belong to other tenants, so a cookie stays with its host.
    headers.remove(CLEAR_SITE_DATA);
    own_cookies(headers);
    // Functions that are addressed by path share an origin with those of other tenants. A host belongs to one function.
    if place.style == AddressingStyle::Path {
        headers.insert(names::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
        headers.insert(names::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if let Some(prefix) = &place.prefix {
        for name in [names::LOCATION, names::CONTENT_LOCATION] {
            let moved = headers.get(&name).and_then(|location| inside(location, prefix, place.host.as_ref()));
            if let Some(moved) = moved {
                headers.insert(name, moved);
            }
        }
    }
    if place.varies {
        headers.append(names::VARY, HeaderValue::from_static("origin"));
    }
    headers.insert(gannet::START, HeaderValue::from_static(kind.as_str()));
    if let Some(value) = tab.server_timing() {
        headers.insert(gannet::SERVER_TIMING, value);
    }
    // A body of known length has no trailer.
    if !headers.contains_key(names::CONTENT_LENGTH) {
        of_trailers.declared.retain(|name| may_pass(name, place.style));
        if matches!(source, ReportSource::Frame(_)) {
            of_trailers.declared.push(gannet::SERVER_TIMING);
        }
        of_trailers.put_into_response(headers);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_inside_the_function() {
        let host = HeaderValue::from_static("fn.example.org:8080");
        let inside = |location: &str| {
            let value = HeaderValue::from_str(location).unwrap();
            let moved = super::inside(&value, "/f/acme/shop", Some(&host));
            moved.map(|value| value.to_str().unwrap().to_owned())
        };
        for (from, to) in [
            ("/", "/f/acme/shop/"),
            ("/cart?a=/b#c", "/f/acme/shop/cart?a=/b#c"),
            ("/f/acme/shopping", "/f/acme/shop/f/acme/shopping"),
            ("http://fn.example.org:8080/cart", "http://fn.example.org:8080/f/acme/shop/cart"),
            ("https://FN.example.org:8080", "https://FN.example.org:8080/f/acme/shop/"),
            ("http://fn.example.org:8080?a=/b", "http://fn.example.org:8080/f/acme/shop/?a=/b"),
        ] {
            assert_eq!(inside(from).as_deref(), Some(to), "{from}");
        }
        for same in [
            "cart",
            "../cart",
            "?a",
            "//evil.example/x",
            "https://other.example/x",
            "/f/acme/shop",
            "/f/acme/shop/x",
            "mailto:a@b",
            "login?next=http://fn.example.org:8080/cart",
        ] {
            assert_eq!(inside(same), None, "{same}");
        }
    }

    #[test]
    fn cookies_lose_their_domain_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for cookie in [&b"a=1; Domain=example.org; Path=/"[..], b"b=\xe4\xf6; HttpOnly", b"c=3;domain=.x"] {
            headers.append(names::SET_COOKIE, HeaderValue::from_bytes(cookie).unwrap());
        }
        own_cookies(&mut headers);
        let kept: Vec<&[u8]> = headers.get_all(names::SET_COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(kept, [&b"a=1; Path=/"[..], b"b=\xe4\xf6; HttpOnly", b"c=3"]);
    }
}
