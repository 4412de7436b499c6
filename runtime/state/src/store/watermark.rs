//! How far the ledger's lines are included in the stored sums.

use serde::{Deserialize, Serialize};

/// Position in the ledger up to which lines are included in the stored sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Watermark {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in the segment, in bytes.
    pub offset: u64,
}
