//! What a request has sent out over HTTP so far. The front door counts it as it passes; the request's tab reads it when it closes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Calls and bytes of one request.
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

    /// Counts bytes, of either direction.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether anything outside may have been affected.
    pub fn has_called(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }
}
