//! A refused request: its kind, its stable code, who is at fault, the text for the client and the text for the log
//! only.
//!
//! Each step of a request's path converts its own errors into a [`Refusal`], next to the error's definition. Only
//! `door/src/respond.rs` maps a [`RefusalKind`] to a status. `public` and `internal` are separate fields, so that no
//! detail of the server reaches a client by accident.

use crate::quota::rate::RateExceeded;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who is at fault for a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The client.
    Caller,
    /// The function.
    Function,
    /// The server. The request costs the tenant nothing.
    Platform,
}

/// The kind of a refusal. Each kind maps to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is malformed.
    Malformed,
    /// A valid key is needed.
    Unauthenticated,
    /// The tenant may not spend more.
    PaymentRequired,
    /// The caller may not do this.
    Forbidden,
    /// The resource does not exist, or the caller may not know that it exists.
    NotFound,
    /// The path exists but does not support the method.
    MethodNotAllowed,
    /// The client sent too slowly.
    ClientTimeout,
    /// The request conflicts with the current state.
    Conflict,
    /// The head is too large.
    HeadTooLarge,
    /// The body is too large.
    BodyTooLarge,
    /// The media type of the body is not supported.
    UnsupportedMediaType,
    /// The request is well formed but cannot be carried out.
    Unprocessable,
    /// A rate or a limit of the caller is used up.
    TooManyRequests,
    /// The server failed.
    Internal,
    /// The server does not support this.
    NotImplemented,
    /// The function failed.
    FunctionFailed,
    /// The server cannot serve the request now.
    Unavailable,
    /// The function did not respond in time.
    FunctionTimeout,
    /// The server's disk is full.
    StorageFull,
    /// Functions call each other too deep.
    CallsTooDeep,
}

/// The limit of the manifest on the memory of a function, as receipts name it.
pub const MEMORY_LIMIT: &str = "memory_mib";

/// When the client may send the same request again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Retry {
    /// The server does not know.
    #[default]
    Unknown,
    /// After a number of seconds.
    After {
        /// How long the client should wait.
        seconds: u64,
    },
    /// When the rate has room again.
    Rate(Box<RateExceeded>),
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, which determines the HTTP status.
    pub kind: RefusalKind,
    /// The stable code that clients test for.
    pub code: &'static str,
    /// Who is at fault.
    pub blame: Blame,
    /// Description of the error for the client, with the value and the limit.
    pub public: String,
    /// What the caller can do about it. It is sent to the client.
    pub hint: Option<&'static str>,
    /// Details for the server's log only.
    pub internal: Option<Box<str>>,
    /// When the client may send the same request again.
    pub retry: Retry,
    /// Whether the same request is sure to fail again.
    pub permanent: bool,
    /// The methods that the path supports, if the request's method was wrong.
    pub allow: Option<String>,
    /// Whether the function reached its limit on memory, which the code does not tell.
    pub is_out_of_memory: bool,
}

impl Refusal {
    /// Returns a refusal without optional details.
    pub fn new(kind: RefusalKind, code: &'static str, blame: Blame, public: impl fmt::Display) -> Self {
        Self {
            kind,
            code,
            blame,
            public: public.to_string(),
            hint: None,
            internal: None,
            retry: Retry::Unknown,
            permanent: false,
            allow: None,
            is_out_of_memory: false,
        }
    }

    /// Returns the refusal of a request for which the server failed. The cause is for the server's log only: it may name
    /// files, processes or other tenants.
    pub fn server_failed(cause: impl fmt::Display) -> Self {
        let public = "the server failed; its log has the cause, under the id of this request";
        Self::new(RefusalKind::Internal, "internal", Blame::Platform, public).internal(cause)
    }

    /// Sets what the caller can do about it.
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Sets the seconds after which the client may send the request again.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry = Retry::After { seconds };
        self
    }

    /// Marks the refusal as permanent: the same request will fail again.
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// Sets the details for the server's log.
    pub fn internal(mut self, detail: impl fmt::Display) -> Self {
        self.internal = Some(detail.to_string().into());
        self
    }
}

impl fmt::Display for Refusal {
    /// Writes the text for the client.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public)
    }
}

impl std::error::Error for Refusal {}

impl From<RateExceeded> for Refusal {
    fn from(error: RateExceeded) -> Self {
        let refusal = Self::new(RefusalKind::TooManyRequests, "rate_limit", Blame::Caller, &error);
        Self { retry: Retry::Rate(Box::new(error)), ..refusal }
    }
}
