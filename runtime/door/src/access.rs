//! Errors of callers without access. What does not exist and what belongs to another tenant give the same error.

use gannet_base::identity::KEY_PREFIX;
use gannet_base::refusal::{Blame, Refusal, RefusalKind};

/// Why a caller has no access to a function or an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The caller sent no key, and what it asked for is not public or does not exist.
    #[error("a key is needed")]
    KeyNeeded,
    /// The key is not one of this server's.
    #[error("the key in `Authorization` is not one of this server's: they begin with {KEY_PREFIX:?}")]
    KeyOfElsewhere,
    /// The function or path does not exist, or belongs to another tenant.
    #[error("there is no such function or path")]
    NotFound,
    /// The key lacks the scope that the request needs.
    #[error("the key lacks the scope {scope:?}")]
    ScopeMissing {
        /// The missing scope.
        scope: &'static str,
    },
    /// The key is limited to one function, and the request is for something else.
    #[error("the key is for the function {function} only")]
    KeyOfOther {
        /// The function that the key is limited to.
        function: String,
    },
    /// The tenant is suspended, so none of its functions may run.
    #[error("the tenant is suspended")]
    Suspended,
    /// The path exists, but not with this method.
    #[error("{method} is not allowed here; allowed: {allowed}")]
    MethodNotAllowed {
        /// The method that the request used.
        method: String,
        /// The methods that the path has, separated by commas.
        allowed: String,
    },
}

/// The hint for a client that sent no valid key.
pub(crate) const KEY_HINT: &str = "send `Authorization: Bearer KEY` or `x-gannet-key: KEY`";

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        use AccessError as E;
        let (kind, code) = match &error {
            E::KeyNeeded | E::KeyOfElsewhere => (RefusalKind::Unauthenticated, "unauthorized"),
            E::NotFound => (RefusalKind::NotFound, "not_found"),
            E::ScopeMissing { .. } | E::KeyOfOther { .. } => (RefusalKind::Forbidden, "forbidden"),
            E::Suspended => (RefusalKind::Forbidden, "tenant_suspended"),
            E::MethodNotAllowed { .. } => (RefusalKind::MethodNotAllowed, "method_not_allowed"),
        };
        let refusal = Self::new(kind, code, Blame::Caller, &error);
        match error {
            E::KeyNeeded | E::KeyOfElsewhere => refusal.hint(KEY_HINT),
            E::NotFound => {
                refusal.hint("`gannet list` shows your functions; a function of another tenant gives this error too")
            }
            E::Suspended => refusal.hint("the operator has suspended the tenant, and can resume it"),
            E::MethodNotAllowed { allowed, .. } => Self { allow: Some(allowed), ..refusal },
            E::ScopeMissing { .. } | E::KeyOfOther { .. } => refusal,
        }
    }
}
