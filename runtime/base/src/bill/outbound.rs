//! Counters of a request's outbound HTTP and of its calls of sibling functions. The front door counts while it relays;
//! the request's tab reads the counters when it closes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of outbound calls of one request, and their bytes. Calls of siblings are counted apart, with what they cost.
#[derive(Debug, Default)]
pub struct OutboundUse {
    calls: AtomicU64,
    bytes: AtomicU64,
    sibling_calls: AtomicU64,
    sibling_micro_units: AtomicU64,
}

impl OutboundUse {
    /// Counts a call: outbound HTTP, or one of the platform that may change something.
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

    /// Counts a call of a sibling.
    pub fn add_sibling_call(&self) {
        self.sibling_calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what a call of a sibling has cost, with the calls that it made itself.
    pub fn add_sibling_cost(&self, micro_units: u64) {
        self.sibling_micro_units.fetch_add(micro_units, Ordering::Relaxed);
    }

    /// Returns the number of calls of siblings, and what those that have ended have cost, in micro-units.
    pub fn siblings(&self) -> (u64, u64) {
        (self.sibling_calls.load(Ordering::Relaxed), self.sibling_micro_units.load(Ordering::Relaxed))
    }

    /// Returns whether the request has called out or a sibling. If so, it may have had an effect elsewhere, and must not
    /// be repeated.
    pub fn has_called(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0 || self.sibling_calls.load(Ordering::Relaxed) > 0
    }
}
