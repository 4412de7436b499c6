//! What the ledger knows of lines without reading a file: those that wait for the disk, where those on disk are, and sums.

use super::segment::SealedSegment;
use gannet_base::bill::LedgerLine;
use gannet_base::names::RequestId;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;

/// Sums since the front door started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Tabs closed.
    pub requests: u64,
    /// Of them with an error.
    pub errors: u64,
    /// Starts by kind: hot, warm, cold.
    pub starts: [u64; 3],
    /// GPU time in nanoseconds.
    pub gpu_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct LedgerIndex {
    /// Closed and not on disk yet.
    pub(super) waiting: HashMap<RequestId, Arc<LedgerLine>>,
    /// In the open segment.
    pub(super) open: HashMap<RequestId, u64>,
    pub(super) open_file: Option<Arc<File>>,
    pub(super) sealed: BTreeMap<u64, Arc<SealedSegment>>,
    pub(super) totals: Totals,
}
