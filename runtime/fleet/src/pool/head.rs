//! The head of a guest's answer, rebuilt for the client: nothing of the connection, nothing that only the
//! platform may say, nothing that would let a page under this origin act for it.

use crate::admitted::AddressingStyle;
use crate::pool::relay::ReportSource;
use gannet_base::bill::StartKind;
use gannet_base::headers::{self as gannet, strip_hop_by_hop};
use gannet_base::hop::header;
use gannet_base::names::RequestId;
use gannet_state::tab::Tab;
use http::{HeaderMap, HeaderName, HeaderValue, header as names};

/// Whether an answer is the worker's word that the guest failed. A guest cannot say this: its own
/// `x-gannet-` headers were removed in the worker.
pub(super) fn is_fault(headers: &HeaderMap) -> bool {
    headers.contains_key(header::FAULT)
}

/// Takes the domain off cookies.
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
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");

/// Rebuilds a guest's headers for the client.
pub(super) fn finish(
    headers: &mut HeaderMap,
    source: &ReportSource,
    tab: &Tab,
    kind: StartKind,
    (id, style): (RequestId, AddressingStyle),
) {
    let length = headers.get(names::CONTENT_LENGTH).cloned();
    strip_hop_by_hop(headers);
    // Kept for HEAD, where no body says it.
    if let Some(length) = length {
        headers.insert(names::CONTENT_LENGTH, length);
    }
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    headers.remove(gannet::ERROR);
    headers.remove(gannet::SERVER_TIMING);
    // Neighbours below the same domain are strangers: a cookie stays with its host.
    headers.remove(CLEAR_SITE_DATA);
    own_cookies(headers);
    // By path functions of strangers share an origin; a host is a function's own.
    if style == AddressingStyle::Path {
        let shared = [names::SET_COOKIE, SERVICE_WORKER_ALLOWED, CLEAR_SITE_DATA, names::STRICT_TRANSPORT_SECURITY];
        for name in shared {
            headers.remove(name);
        }
        headers.insert(names::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
        headers.insert(names::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    headers.insert(gannet::START, HeaderValue::from_static(kind.as_str()));
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(gannet::REQUEST_ID, value);
    }
    if let Ok(value) = HeaderValue::from_str(&tab.server_timing()) {
        headers.insert(gannet::SERVER_TIMING, value);
    }
    // A body of announced length has no trailer.
    if matches!(source, ReportSource::Frame(_)) && !headers.contains_key(names::CONTENT_LENGTH) {
        headers.insert(names::TRAILER, HeaderValue::from_static("server-timing"));
    }
}
