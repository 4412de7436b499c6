//! Why a caller may not have what it names. A thing that does not exist and one of another tenant give the same answer.

use gannet_base::refusal::{Blame, Refusal, RefusalKind};

/// Why a caller may not have what it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The function is not public, or there is none.
    #[error("a key is needed")]
    KeyNeeded,
    /// There is none, or it is another tenant's.
    #[error("there is no such function or path")]
    NotFound,
    /// The key may not do this.
    #[error("the key lacks the scope {scope:?}")]
    ScopeMissing {
        /// The scope.
        scope: &'static str,
    },
    /// The key is for one function, and this is another.
    #[error("the key is for the function {function} only")]
    KeyOfOther {
        /// The function that it is for.
        function: String,
    },
    /// Nothing of the tenant's may run.
    #[error("the tenant is suspended")]
    Suspended,
    /// The path exists, the method does not.
    #[error("{method} is not allowed here; allowed: {allowed}")]
    MethodNotAllowed {
        /// What was used.
        method: String,
        /// What can be.
        allowed: String,
    },
}

/// What a client that sent no valid key can do.
pub(crate) const KEY_HINT: &str = "send `Authorization: Bearer KEY` or `x-gannet-key: KEY`";

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        use AccessError as E;
        let (kind, code) = match &error {
            E::KeyNeeded => (RefusalKind::Unauthenticated, "unauthorized"),
            E::NotFound => (RefusalKind::NotFound, "not_found"),
            E::ScopeMissing { .. } | E::KeyOfOther { .. } => (RefusalKind::Forbidden, "forbidden"),
            E::Suspended => (RefusalKind::Forbidden, "tenant_suspended"),
            E::MethodNotAllowed { .. } => (RefusalKind::MethodNotAllowed, "method_not_allowed"),
        };
        let refusal = Self::new(kind, code, Blame::Caller, &error);
        match error {
            E::KeyNeeded => refusal.hint(KEY_HINT),
            E::NotFound => {
                refusal.hint("`gannet list` shows your functions; other tenants' functions look like this too")
            }
            E::Suspended => refusal.hint("the operator has suspended the tenant, and can resume it"),
            E::MethodNotAllowed { allowed, .. } => Self { allow: Some(allowed), ..refusal },
            E::ScopeMissing { .. } | E::KeyOfOther { .. } => refusal,
        }
    }
}
