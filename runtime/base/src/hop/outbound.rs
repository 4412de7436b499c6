//! Outbound HTTP between a worker and the front door: the limits of the HTTP/2 connection, which both sides use, and
//! the reasons why a call fails. A call is one outbound request of a guest.

use serde::{Deserialize, Serialize};

/// Calls of one worker at the same time.
pub const STREAMS_MAX: u32 = 64;
/// Calls of sibling functions from one worker at the same time, beside those.
pub const SIBLING_STREAMS_MAX: u32 = 512;
/// All calls on the socket between a worker and the front door, with those of the platform.
pub const SOCKET_STREAMS: u32 = STREAMS_MAX + SIBLING_STREAMS_MAX + super::platform::STREAMS_MAX;
/// Flow-control window of one call on the socket between a worker and the front door, in bytes. It is small, because the
/// socket is fast and the front door keeps what nobody reads.
pub const SOCKET_WINDOW: u32 = 64 * 1024;
/// Flow-control window of one call to another server, in bytes. The connection's window is the sum of all calls' windows, so that a call
/// whose bytes nobody reads does not block the others.
pub const WINDOW: u32 = 256 * 1024;
/// Limit on the head of a request or response, in bytes.
pub const HEAD_BYTES_MAX: u32 = 128 * 1024;

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboundError {
    /// The manifest does not allow the destination, or the method is CONNECT or TRACE, or the call names no request in
    /// flight of this worker.
    NotListed,
    /// A limit is used up.
    Limit {
        /// Name of the limit.
        name: String,
        /// Value of the limit.
        limit: u64,
    },
    /// The host name could not be resolved.
    Dns,
    /// The host has no address that functions may reach.
    Prohibited,
    /// No connection was made in time, or it failed before the response.
    Unreachable,
    /// The TLS handshake failed.
    Tls,
    /// The response did not come in time.
    Timeout,
    /// The response is larger than its limit.
    TooLarge,
    /// The request or the response is not valid HTTP.
    Protocol,
}

impl OutboundError {
    /// Returns the error for a limit that is used up.
    pub fn limit(name: &str, limit: u64) -> Self {
        Self::Limit { name: name.to_owned(), limit }
    }
}
