//! A line of the ledger in its stream: JSON. Each has the id of its request, or of its charge.
//!
//! ```text
//!  DATA/ledger/0000000007.jsonl    a sealed segment of the stream: JSON, a tab, the CRC-32 of the JSON in hex, a line feed
//!  DATA/ledger/0000000007.idx      its ids and where their lines begin; see segments/index.rs
//!  DATA/ledger/0000000008.jsonl    the open segment: the last one
//! ```
//!
//! Damage makes only the lines unreadable that contain it. Damaged bytes stay in the file, and each start logs them. The
//! beginning of a line that a crash interrupted was never acknowledged, and is cut off.

use crate::streams::local::StreamForm;
use crate::streams::{Line, LineId, TEXT_BYTES_MAX};
use gannet_base::bill::LedgerLine;

/// What the ledger's files look like.
pub(super) const FORM: StreamForm = StreamForm { ending: "jsonl", id_of };

/// Encodes a line. None if it cannot be, which is logged: texts in a line are truncated, so none is too long.
pub(super) fn encode(line: &LedgerLine) -> Option<Line> {
    let failed = match serde_json::to_vec(line) {
        Ok(text) if text.len() <= TEXT_BYTES_MAX => return Some(Line { id: line.id().to_bytes(), text }),
        Ok(text) => format!("it has {} bytes", text.len()),
        Err(error) => error.to_string(),
    };
    tracing::error!(id = %line.id(), failed, "a line of the ledger cannot be encoded");
    None
}

/// Reads a line. None if this binary does not know its form, which is logged.
pub(super) fn decode(text: &[u8]) -> Option<LedgerLine> {
    serde_json::from_slice(text)
        .inspect_err(|error| tracing::error!(%error, "a line of the ledger cannot be parsed"))
        .ok()
}

/// Reads the id of a line.
pub(super) fn id_of(text: &[u8]) -> Option<LineId> {
    serde_json::from_slice::<LedgerLine>(text).ok().map(|line| line.id().to_bytes())
}
