//! A line of a function's log, as the front door keeps and returns it.

use crate::hop::LogStream;
use crate::names::RequestId;
use serde::{Deserialize, Serialize};

/// One line of a function's log.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogLine {
    /// When the front door received it, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub time: jiff::Timestamp,
    /// The request it was written in.
    #[schema(value_type = String, format = "uuid")]
    pub request: RequestId,
    /// The stream it was written to.
    pub stream: LogStream,
    /// The line, without its end.
    pub text: String,
    /// Number of lines lost just before it; absent if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}
