//! Counters of a request's outbound HTTP. The front door counts while it relays; the request's tab reads the counters
//! when it closes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of outbound calls of one request, and their bytes.
#[derive(Debug, Default)]
pub struct OutboundUse {
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl OutboundUse {
    /// Counts a call.
    pub fn add_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that were sent or received.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes sent and received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns whether the request has called out. If so, it may have had an effect outside, and must not be repeated.
    pub fn has_called(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }
}
