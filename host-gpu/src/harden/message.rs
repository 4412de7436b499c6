//! Messages about a place in a source, as every refusal of a kernel has them.

use crate::error::Error;
use naga::{SourceLocation, Span};

/// Refuses a kernel with `line:column: message`, or with the message alone where the place is not known.
pub(crate) fn rejected_at(at: Option<SourceLocation>, message: &str) -> Error {
    Error::KernelRejected(match at {
        Some(at) => format!("{}:{}: {message}", at.line_number, at.line_position),
        None => message.to_owned(),
    })
}

/// The same for a span of the source.
pub(super) fn rejected(span: Span, wgsl: &str, message: &str) -> Error {
    rejected_at(span.is_defined().then(|| span.location(wgsl)), message)
}

/// The line of a place, for use inside a message.
pub(super) fn line(span: Span, wgsl: &str) -> String {
    if span.is_defined() { format!("line {}", span.location(wgsl).line_number) } else { "another line".into() }
}
