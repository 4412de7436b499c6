//! The headers that the front door adds to a request: version, request id and deadline. The guest never sees them.

use gannet_base::hop::{VersionKey, header};
use gannet_base::names::RequestId;
use http::{HeaderMap, HeaderName};
use std::time::Duration;

/// The values of the headers that the front door adds.
pub(super) struct HopHeaders {
    pub(super) version: VersionKey,
    pub(super) request: RequestId,
    /// How long the client still waits for the head of the response.
    pub(super) deadline: Duration,
}

impl HopHeaders {
    /// Removes them from the headers. Returns none if one is missing or malformed.
    pub(super) fn take(headers: &mut HeaderMap) -> Option<Self> {
        Some(Self {
            version: take(headers, &header::VERSION, |text| text.parse().ok())?,
            request: take(headers, &header::REQUEST, RequestId::parse)?,
            deadline: take(headers, &header::DEADLINE, |text| text.parse().ok()).map(Duration::from_millis)?,
        })
    }
}

fn take<T>(headers: &mut HeaderMap, name: &HeaderName, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    headers.remove(name)?.to_str().ok().and_then(parse)
}
