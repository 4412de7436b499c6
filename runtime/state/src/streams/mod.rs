//! Durable streams of lines, behind a trait: the ledger is one.
//!
//! ```text
//!  append([(id, text)]) ─▶ a line whose id the stream has is not written again ─▶ durable ─▶ Ok(positions)
//!       │ Full, Unavailable: nothing was done
//!       └ Unknown: some of the first lines may have been stored, now or later; the caller appends the same again
//!  scan(from) ─▶ the lines behind a position, in the order in which they were stored
//! ```
//!
//! Implementations: [`local`] keeps the lines of one machine in segments; [`simulated`] is for tests, and loses what was
//! not synced, answers late or answers "unknown". One suite, `contract.rs`, runs against both.
//!
//! Invariant: the stream has one line for each id, however often it is appended, whatever is answered in between.

#[cfg(test)]
mod contract;
pub mod local;
pub mod simulated;

pub use crate::records::StoreFuture;
pub use crate::segments::index::LineId;
pub use crate::store::watermark::Watermark as Position;
use std::fmt::Debug;
use std::io;

/// Longest text of a line, in bytes.
pub const TEXT_BYTES_MAX: usize = (1 << 20) - 16;
/// Most lines in one append.
pub const LINES_MAX: usize = 100_000;
/// Most bytes of the texts in one append.
pub const APPEND_BYTES_MAX: usize = 256 << 20;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Identifies it in its stream.
    pub id: LineId,
    /// The text of the line, without line feeds. It contains the id, because a store may read the id back from it.
    pub text: Vec<u8>,
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The lines, each with the position behind it.
    pub lines: Vec<(Position, Line)>,
    /// The next scan continues from here.
    pub next: Position,
    /// Whether there may be more lines behind `next`.
    pub more: bool,
}

/// Why lines were not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A line or all of them are too large, or one has a line feed. Nothing was stored.
    #[error("lines that no stream accepts: {0}")]
    Invalid(String),
    /// There is no space for them. Nothing was stored.
    #[error("the disk is full")]
    Full,
    /// The stream does not work now. Nothing was stored.
    #[error("the stream does not work: {0}")]
    Unavailable(String),
    /// Some of the first lines may have been stored, now or later. Appending the same again makes it certain.
    #[error("it is not known whether lines were stored: {0}")]
    Unknown(String),
}

/// A stream of lines; see the module. Scans see every line that was acknowledged before.
pub trait LineStream: Send + Sync + Debug {
    /// Stores lines, in their order. They are durable when it returns the position behind each. A line whose id is
    /// stored already keeps its text and its position. Appends are made in the order in which this is called, before
    /// the returned future is first polled.
    fn append(&self, lines: Vec<Line>) -> StoreFuture<'static, Result<Vec<Position>, AppendError>>;

    /// Returns lines behind a position, which this stream returned or which is zero. Fails if the stream ends before
    /// it: then lines that were acknowledged are lost.
    fn scan(&self, from: Position) -> StoreFuture<'_, io::Result<Part>>;

    /// Returns the text of the line with an id.
    fn get(&self, id: LineId) -> StoreFuture<'_, io::Result<Option<Vec<u8>>>>;

    /// Lets the stream forget lines that were stored before a time. It may keep any of them.
    fn trim(&self, before: jiff::Timestamp) -> StoreFuture<'_, io::Result<()>>;
}

/// Checks what every stream refuses.
fn check_lines(lines: &[Line]) -> Result<(), AppendError> {
    let invalid = |why: String| Err(AppendError::Invalid(why));
    if lines.len() > LINES_MAX {
        return invalid(format!("{} lines; the limit is {LINES_MAX}", lines.len()));
    }
    let mut bytes = 0;
    for Line { text, .. } in lines {
        if text.len() > TEXT_BYTES_MAX {
            return invalid(format!("a line of {} bytes; the limit is {TEXT_BYTES_MAX}", text.len()));
        }
        if text.contains(&b'\n') {
            return invalid("a line with a line feed in it".to_owned());
        }
        bytes += text.len();
    }
    if bytes > APPEND_BYTES_MAX {
        return invalid(format!("{bytes} bytes; the limit is {APPEND_BYTES_MAX}"));
    }
    Ok(())
}
