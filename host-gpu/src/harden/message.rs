//! Errors that name a place in a kernel's source.

use crate::error::Error;
use naga::{SourceLocation, Span};

/// Returns the error `line:column: message`, or the message alone if the place is unknown.
pub(crate) fn rejected_at(at: Option<SourceLocation>, message: &str) -> Error {
    Error::KernelRejected(match at {
        Some(at) => format!("{}:{}: {message}", at.line_number, at.line_position),
        None => message.to_owned(),
    })
}

/// Like [`rejected_at`], for a span of the source.
pub(crate) fn rejected(span: Span, wgsl: &str, message: &str) -> Error {
    rejected_at(span.is_defined().then(|| span.location(wgsl)), message)
}

/// Returns `line N` for the start of a span, for use inside a message.
pub(super) fn line(span: Span, wgsl: &str) -> String {
    if span.is_defined() { format!("line {}", span.location(wgsl).line_number) } else { "another line".into() }
}

/// Limit of the lines that are kept.
const LINES_MAX: usize = 6;

/// Returns the lines on which spans start, in ascending order.
pub(super) fn lines(spans: &[Span], wgsl: &str) -> Vec<u32> {
    let defined = spans.iter().filter(|span| span.is_defined());
    let lines: std::collections::BTreeSet<u32> = defined.map(|span| span.location(wgsl).line_number).collect();
    lines.into_iter().take(LINES_MAX).collect()
}
