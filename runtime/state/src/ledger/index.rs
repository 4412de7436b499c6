//! The ledger's index in memory: lines that are not on disk yet, and totals.

use gannet_base::bill::LedgerLine;
use gannet_base::names::RequestId;
use std::collections::HashMap;
use std::sync::Arc;

/// Totals since the front door started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Closed tabs.
    pub requests: u64,
    /// Closed tabs with an error.
    pub errors: u64,
    /// Starts by kind: hot, warm, cold.
    pub starts: [u64; 3],
    /// GPU time in nanoseconds.
    pub gpu_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct LedgerIndex {
    /// Lines that are not on disk yet.
    pub(super) waiting: HashMap<RequestId, Arc<LedgerLine>>,
    pub(super) totals: Totals,
}
