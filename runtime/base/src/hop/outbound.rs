//! Outbound HTTP between a worker and the front door: what both sides hold to, and why a call was refused.

use serde::{Deserialize, Serialize};

/// Calls of one worker at once.
pub const STREAMS_MAX: u32 = 64;
/// Bytes that one call may be ahead. All together fit into the connection's window, so that one that nobody reads holds up no
/// other.
pub const WINDOW: u32 = 256 * 1024;
/// Bytes of a head.
pub const HEAD_BYTES_MAX: u32 = 128 * 1024;

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboundError {
    /// The host is not in the manifest's list.
    NotListed,
    /// A limit is used up.
    Limit {
        /// Its name.
        name: String,
        /// It.
        limit: u64,
    },
    /// The name has no address.
    Dns,
    /// It has none that functions may reach.
    Prohibited,
    /// Nobody listens there, or not in time.
    Unreachable,
    /// TLS failed.
    Tls,
    /// The answer did not come in time.
    Timeout,
    /// The answer is larger than it may be.
    TooLarge,
    /// What came is no HTTP.
    Protocol,
}

impl OutboundError {
    /// A limit that is used up.
    pub fn limit(name: &str, limit: u64) -> Self {
        Self::Limit { name: name.to_owned(), limit }
    }
}
