//! Step 3: path → function, from the published snapshot, never from the store.
//!
//! A function that does not exist and one of another tenant give the same answer. Everything that is
//! not `/f/…` goes to the control API, which sits beside the path.

use crate::admit::Admit;
use crate::auth::Caller;
use crate::control::Control;
use crate::inbound::Inbound;
use crate::registry::{Function, Snapshot};
use crate::respond::{Refused, ResponseBody};
use http::Response;
use http::uri::PathAndQuery;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Why a request has no function to go to.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// A path that could mean two things.
    #[error("the path {0}")]
    PathInvalid(String),
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
    /// The path exists, the method does not.
    #[error("{method} is not allowed here; allowed: {allowed}")]
    MethodNotAllowed {
        /// What was used.
        method: String,
        /// What can be.
        allowed: &'static str,
    },
}

/// A function to call and what it sees as its path.
#[derive(Debug)]
pub struct Target {
    /// The function.
    pub function: Arc<Function>,
    /// The tenant's share of the server.
    pub share: Arc<Semaphore>,
    /// Path and query for the guest.
    pub path: PathAndQuery,
}

/// The step.
#[derive(Debug)]
pub struct Route {
    control: Control,
    next: Admit,
}

impl Route {
    /// The step, with the next one and the control API inside it.
    pub fn new(control: Control, next: Admit) -> Self {
        Self { control, next }
    }

    /// Sends the request on.
    pub async fn call(
        &self,
        inbound: Inbound,
        caller: Caller,
        snapshot: Arc<Snapshot>,
    ) -> Result<Response<ResponseBody>, Refused> {
        if let Some(rest) = inbound.parts.uri.path().strip_prefix("/f/") {
            let target = target(rest, inbound.parts.uri.query(), &caller, &snapshot)?;
            return self.next.call(inbound, target).await;
        }
        self.control.call(inbound, caller, snapshot).await
    }
}

fn target(rest: &str, query: Option<&str>, caller: &Caller, snapshot: &Snapshot) -> Result<Target, RouteError> {
    check_segments(rest)?;
    let mut parts = rest.splitn(3, '/');
    let (tenant, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let path = parts.next();
    let function = snapshot.function(tenant, name).filter(|function| may_call(caller, tenant, function));
    let Some(function) = function else {
        // Without a key the answer is the same for what exists and what does not.
        return Err(if *caller == Caller::Anonymous { RouteError::KeyNeeded } else { RouteError::NotFound });
    };
    if let Caller::Tenant(own, scopes) = caller
        && own.as_str() == tenant
        && !scopes.invoke
        && !function.current.manifest().http.public
    {
        return Err(RouteError::ScopeMissing { scope: "invoke" });
    }
    let mut text = format!("/{}", path.unwrap_or_default());
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    let path = text.parse().map_err(|_| RouteError::PathInvalid("is not a path".into()))?;
    let share = snapshot.tenants.get(tenant).map(|tenant| Arc::clone(&tenant.share)).ok_or(RouteError::NotFound)?;
    Ok(Target { function: Arc::clone(function), share, path })
}

fn may_call(caller: &Caller, tenant: &str, function: &Function) -> bool {
    match caller {
        _ if function.current.manifest().http.public => true,
        Caller::Operator => true,
        Caller::Tenant(own, _) => own.as_str() == tenant,
        Caller::Anonymous => false,
    }
}

/// Refuses what a guest, a proxy and we could read differently: empty and dot segments, escaped
/// separators, NUL.
fn check_segments(path: &str) -> Result<(), RouteError> {
    let invalid = |why: &str| Err(RouteError::PathInvalid(why.to_owned()));
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return invalid("has an empty segment");
        }
        let lower = segment.to_ascii_lowercase();
        let dots = lower.replace("%2e", ".");
        if dots == "." || dots == ".." {
            return invalid("has a dot segment");
        }
        if ["%2f", "%5c", "%00"].iter().any(|escape| lower.contains(escape)) || segment.contains('\\') {
            return invalid("has an escaped separator or NUL");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_tricks_are_refused() {
        for bad in [
            "acme/blur/../x",
            "acme/./blur",
            "acme/blur/%2e%2E/x",
            "acme//blur",
            "acme/blur//x",
            "a/b/%2Fx",
            "a/b/x%5cy",
            "a/b/.%2e",
            "a/b/%00",
        ] {
            assert!(check_segments(bad).is_err(), "{bad}");
        }
        for good in ["acme/blur", "acme/blur/", "acme/blur/a.b/..c/%20"] {
            assert!(check_segments(good).is_ok(), "{good}");
        }
    }
}
