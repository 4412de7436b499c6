//! Headers that Gannet gives a meaning to, and those that belong to one connection only.

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};

/// A request: the key, when `Authorization` belongs to the function.
pub const KEY: HeaderName = HeaderName::from_static("x-gannet-key");
/// A request of the operator: the tenant that it acts for.
pub const TENANT: HeaderName = HeaderName::from_static("x-gannet-tenant");
/// A request: the tag of a version, where the path does not name one.
pub const TAG: HeaderName = HeaderName::from_static("x-gannet-tag");
/// A response: the stable code of a refusal. A function's own answer never has it.
pub const ERROR: HeaderName = HeaderName::from_static("x-gannet-error");
/// A response: the request's id. A request on its way to a function has it too.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A response: how the request started, hot, warm or cold.
pub const START: HeaderName = HeaderName::from_static("x-gannet-start");
/// A response: where its time went (W3C Server Timing), as header or trailer.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Removes headers that belong to one connection, and those that `Connection` names.
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
