//! The ledger's index in memory: lines that are not on disk yet, positions of lines that are, and totals.

use super::segment::SealedSegment;
use gannet_base::bill::LedgerLine;
use gannet_base::names::RequestId;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
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
    /// Offsets of the lines in the open segment.
    pub(super) open: HashMap<RequestId, u64>,
    /// File of the open segment.
    pub(super) open_file: Option<Arc<File>>,
    /// Sealed segments, by number.
    pub(super) sealed: BTreeMap<u64, Arc<SealedSegment>>,
    pub(super) totals: Totals,
}
