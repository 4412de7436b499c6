//! The HTTP headers that Gannet defines or adds, and the removal of hop-by-hop headers.

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};

/// Request header: the API key, when `Authorization` belongs to the function.
pub const KEY: HeaderName = HeaderName::from_static("x-gannet-key");
/// Request header of the operator: the tenant that it acts for.
pub const TENANT: HeaderName = HeaderName::from_static("x-gannet-tenant");
/// Request header: the tag of a version, when the path does not name one.
pub const TAG: HeaderName = HeaderName::from_static("x-gannet-tag");
/// Response header: the stable code of a refusal. A function's own response never has it.
pub const ERROR: HeaderName = HeaderName::from_static("x-gannet-error");
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
