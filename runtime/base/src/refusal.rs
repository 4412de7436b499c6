//! A refused request: its kind, its stable code, whose fault it is, what the client reads and what only the log does.
//!
//! Each step of a request's path converts its own errors into a [`Refusal`], beside the error. Only `door/src/respond.rs` knows which
//! status a [`RefusalKind`] is. `public` and `internal` are apart, so that no detail of the server reaches a client by accident.

use crate::quota::rate::RateExceeded;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The client's.
    Caller,
    /// The function's.
    Function,
    /// Ours; it costs the tenant nothing.
    Platform,
}

/// What kind of refusal it is. Each kind has one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is not well formed.
    Malformed,
    /// A valid key is needed.
    Unauthenticated,
    /// The tenant may not spend more.
    PaymentRequired,
    /// The caller may not do this.
    Forbidden,
    /// There is no such thing, or the caller may not know of it.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The client sent too slowly.
    ClientTimeout,
    /// It contradicts what is there.
    Conflict,
    /// The body is too large.
    BodyTooLarge,
    /// The body has a type that is not read.
    UnsupportedMediaType,
    /// It is well formed and cannot be done.
    Unprocessable,
    /// A rate or a limit of the caller's is used up.
    TooManyRequests,
    /// The server failed.
    Internal,
    /// The server does not do this.
    NotImplemented,
    /// The function failed.
    FunctionFailed,
    /// The server cannot serve it now.
    Unavailable,
    /// The function did not answer in time.
    FunctionTimeout,
    /// The server's disk is full.
    StorageFull,
}

/// When the same request may succeed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Retry {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Not before so many seconds.
    After {
        /// The seconds.
        seconds: u64,
    },
    /// When the rate has room again.
    Rate(Box<RateExceeded>),
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which kind.
    pub kind: RefusalKind,
    /// The stable code that clients test for.
    pub code: &'static str,
    /// Whose fault it is.
    pub blame: Blame,
    /// What is wrong: the value and the limit. The client reads it.
    pub public: String,
    /// What the caller can do about it.
    pub hint: Option<&'static str>,
    /// What only the server's log may say.
    pub internal: Option<Box<str>>,
    /// When it may succeed.
    pub retry: Retry,
    /// Whether the same request is sure to fail again.
    pub permanent: bool,
    /// The methods that there are, where the method was wrong.
    pub allow: Option<String>,
}

impl Refusal {
    /// A refusal with nothing beyond the needed.
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
        }
    }

    /// Says what the caller can do about it.
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Says after how many seconds it may succeed.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry = Retry::After { seconds };
        self
    }

    /// Says that the same request will fail again.
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// Says what only the log may.
    pub fn internal(mut self, detail: impl fmt::Display) -> Self {
        self.internal = Some(detail.to_string().into());
        self
    }
}

impl fmt::Display for Refusal {
    /// What the client reads.
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
