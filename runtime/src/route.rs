//! Step 3: path or host → function and version, from the published snapshot, never from the store.
//!
//! ```text
//!  /f/{tenant}/{function}/…          by path; /f/{tenant}/{function}@{tag}/… for a version under a tag
//!  {function}--{tenant}.{domain}/…   by host, where a domain is set; the header x-gannet-tag for a tag
//!  all else                          the control API, which sits beside the path
//! ```
//!
//! A function that does not exist and one of another tenant give the same answer.

use crate::admit::Admit;
use crate::auth::{Caller, Key};
use crate::config::{Live, ServerFile};
use crate::control::Control;
use crate::inbound::{Door, Inbound};
use crate::openai::{self, Bodies, keep_alive};
use crate::registry::{Function, Snapshot, Tenant, Version};
use crate::respond::{Refused, ResponseBody};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Response};
use std::sync::Arc;

/// Names the tag of a version, where the path does not.
pub const TAG_HEADER: HeaderName = HeaderName::from_static("x-gannet-tag");

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
    /// The key is for one function, and this is another.
    #[error("the key is for the function {function} only")]
    KeyOfOther {
        /// The function that it is for.
        function: String,
    },
    /// No function that is a model has this name.
    #[error("the model {model:?} does not exist, or is none of yours")]
    ModelNotFound {
        /// What was asked for.
        model: String,
    },
    /// The body names no model.
    #[error("the body names no model: its field \"model\" is a function's name")]
    ModelNeeded,
    /// The body is not what could name a model.
    #[error("the body is no JSON object whose field \"model\" is a function's name: {0}")]
    BodyInvalid(String),
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

/// How a function was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// By a path, on an origin that it shares with others.
    Path,
    /// By a host of its own.
    Host,
}

/// A function to call and what it sees as its path.
#[derive(Debug)]
pub struct Target {
    /// Its tenant.
    pub tenant: Arc<Tenant>,
    /// The function.
    pub function: Arc<Function>,
    /// The version that was chosen.
    pub version: Arc<Version>,
    /// Path and query for the guest.
    pub path: PathAndQuery,
    /// How it was named.
    pub style: Style,
}

/// The step.
#[derive(Debug)]
pub struct Route {
    control: Control,
    live: Live,
    bodies: Bodies,
    next: Arc<Admit>,
}

/// A function as a request names it.
struct Named<'a> {
    tenant: &'a str,
    function: &'a str,
    tag: Option<&'a str>,
    path: Option<&'a str>,
    style: Style,
}

/// The function that a path names after `/f/`.
fn by_path(rest: &str) -> Named<'_> {
    let mut parts = rest.splitn(3, '/');
    let (tenant, name, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    let (function, tag) = name.split_once('@').map_or((name, None), |(function, tag)| (function, Some(tag)));
    Named { tenant, function, tag, path, style: Style::Path }
}

/// The function that a host names.
fn by_host<'a>(host: &'a str, domain: &str, path: &'a str) -> Option<Named<'a>> {
    let label = host.strip_suffix(domain)?.strip_suffix('.')?;
    let (function, tenant) = label.split_once("--")?;
    Some(Named { tenant, function, tag: None, path: path.strip_prefix('/'), style: Style::Host })
}

fn named<'a>(inbound: &'a Inbound, host: &'a str, file: &ServerFile) -> Option<Named<'a>> {
    if inbound.door == Door::Admin {
        return None;
    }
    let path = inbound.parts.uri.path();
    let of_host = file.domain.as_deref().and_then(|domain| by_host(host, domain, path));
    of_host.or_else(|| path.strip_prefix("/f/").map(by_path))
}

/// Whose manifest says from which origins a request may come. It decides nothing else.
#[derive(Debug)]
pub enum Origins {
    /// The function that it is for, which anybody may call.
    Public(Arc<Version>),
    /// The function that it is for, if there is one. Strangers must not find out whether.
    Hidden(Option<Arc<Version>>),
}

/// The function that a request is for, for what its manifest says of origins; none if it names none.
pub fn origins(inbound: &Inbound, snapshot: &Snapshot, file: &ServerFile) -> Option<Origins> {
    let host = inbound.host();
    let named = named(inbound, &host, file)?;
    let tenant = snapshot.tenants.get(named.tenant).filter(|tenant| !tenant.record.suspended);
    let function = tenant.and_then(|tenant| tenant.functions.get(named.function));
    Some(match function.map(|function| Arc::clone(&function.current)) {
        Some(version) if version.manifest().http.public => Origins::Public(version),
        version => Origins::Hidden(version),
    })
}

impl Route {
    /// The step, with the next one and the control API inside it.
    pub fn new(control: Control, live: Live, next: Admit) -> Self {
        Self { control, live, bodies: Bodies::default(), next: Arc::new(next) }
    }

    /// Sends the request on.
    pub async fn call(
        &self,
        inbound: Inbound,
        caller: Caller,
        snapshot: Arc<Snapshot>,
    ) -> Result<Response<ResponseBody>, Refused> {
        let host = inbound.host();
        let file = self.live.load_full();
        if let Some(named) = named(&inbound, &host, &file) {
            let target = target(&named, &inbound, &caller, &snapshot)?;
            if let Some(served) = &inbound.served {
                // Set once, here.
                let _ = served.set((target.version.tenant.clone(), target.version.function.clone()));
            }
            return self.next.call(inbound, &caller, target).await;
        }
        if inbound.door != Door::Admin && openai::asked(inbound.parts.uri.path()).is_some() {
            return self.openai(inbound, caller, snapshot).await;
        }
        let is_control =
            file.domain.is_none() || !host.ends_with(&format!(".{}", file.domain.as_deref().unwrap_or("")));
        if !is_control || inbound.door == Door::Functions && !Control::is_health(inbound.parts.uri.path()) {
            return Err(if caller == Caller::Anonymous { RouteError::KeyNeeded } else { RouteError::NotFound }.into());
        }
        self.control.call(inbound, caller, snapshot).await
    }

    /// A request of an OpenAI client.
    async fn openai(
        &self,
        mut inbound: Inbound,
        caller: Caller,
        snapshot: Arc<Snapshot>,
    ) -> Result<Response<ResponseBody>, Refused> {
        let path = inbound.parts.uri.path().to_owned();
        check_segments(path.trim_start_matches('/'))?;
        let asked = openai::asked(&path).ok_or(RouteError::NotFound)?;
        if asked.function.is_none() {
            let one = asked.path.strip_prefix("v1/models").map(|rest| rest.strip_prefix('/'));
            if let Some(one) = one.filter(|one| one.is_some() || asked.path == "v1/models") {
                return Ok(openai::models(&inbound, &caller, &snapshot, one)?);
            }
        }
        let called = openai::read(&mut inbound, &caller, &snapshot, &asked, &self.bodies).await?;
        let (function, tag) = openai::split(&called.model);
        let not_found = || RouteError::ModelNotFound { model: called.model.chars().take(80).collect() };
        let tenant = called.tenant.as_str();
        if called.listed_only && !snapshot.function(tenant, function).is_some_and(|function| openai::is_model(function))
        {
            return Err(not_found().into());
        }
        let named = Named { tenant, function, tag, path: Some(asked.path), style: Style::Path };
        let target = target(&named, &inbound, &caller, &snapshot).map_err(|error| match error {
            RouteError::NotFound => not_found(),
            other => other,
        })?;
        if let Some(served) = &inbound.served {
            let _ = served.set((target.version.tenant.clone(), target.version.function.clone()));
        }
        let (admit, id) = (Arc::clone(&self.next), inbound.id);
        let answering = async move { admit.call(inbound, &caller, target).await };
        if called.stream { keep_alive::answer(Box::pin(answering), id).await } else { answering.await }
    }
}

fn target(named: &Named<'_>, inbound: &Inbound, caller: &Caller, snapshot: &Snapshot) -> Result<Target, RouteError> {
    check_segments(match named.style {
        Style::Path => inbound.parts.uri.path().strip_prefix("/f/").unwrap_or_default(),
        Style::Host => named.path.unwrap_or_default(),
    })?;
    // Without a key the answer is the same for what exists and what does not.
    let nothing = || if *caller == Caller::Anonymous { RouteError::KeyNeeded } else { RouteError::NotFound };
    let tenant = snapshot.tenants.get(named.tenant).ok_or_else(nothing)?;
    let function = tenant.functions.get(named.function);
    let chosen = function.and_then(|function| Some((function, choose(function, named, inbound)?)));
    let (function, version) = match chosen {
        Some((function, version)) if may_call(caller, named.tenant, function, version) => (function, version),
        _ => return Err(nothing()),
    };
    let own = |key: &Key| key.record.tenant.as_str() == named.tenant;
    if tenant.record.suspended {
        let told = match caller {
            Caller::Operator => true,
            Caller::Tenant(key) => own(key),
            Caller::Anonymous => false,
        };
        return Err(if told { RouteError::Suspended } else { nothing() });
    }
    if let Caller::Tenant(key) = caller
        && own(key)
        && !is_public(function, version)
    {
        check_key(key, &function.name)?;
    }
    let mut text = format!("/{}", named.path.unwrap_or_default());
    if let Some(query) = inbound.parts.uri.query() {
        text.push('?');
        text.push_str(query);
    }
    let path = text.parse().map_err(|_| RouteError::PathInvalid("is not a path".into()))?;
    let (tenant, function, version) = (Arc::clone(tenant), Arc::clone(function), Arc::clone(version));
    Ok(Target { tenant, function, version, path, style: named.style })
}

fn choose<'a>(function: &'a Function, named: &Named<'_>, inbound: &Inbound) -> Option<&'a Arc<Version>> {
    let headers: &HeaderMap = &inbound.parts.headers;
    let tag = named.tag.or_else(|| headers.get(TAG_HEADER)?.to_str().ok());
    match tag {
        Some(tag) => function.tagged(tag),
        None => Some(function.choose(headers, inbound.id)),
    }
}

fn check_key(key: &Key, function: &crate::names::FunctionName) -> Result<(), RouteError> {
    if let Some(only) = key.record.function.as_ref().filter(|only| *only != function) {
        return Err(RouteError::KeyOfOther { function: only.to_string() });
    }
    if key.record.scopes.invoke { Ok(()) } else { Err(RouteError::ScopeMissing { scope: "invoke" }) }
}

/// Whether anyone may call a version. One that gets no requests any more was public at another time.
fn is_public(function: &Function, version: &Version) -> bool {
    version.manifest().http.public && function.serves(version)
}

fn may_call(caller: &Caller, tenant: &str, function: &Function, version: &Version) -> bool {
    match caller {
        _ if is_public(function, version) => true,
        Caller::Operator => true,
        Caller::Tenant(key) => key.record.tenant.as_str() == tenant,
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

    #[test]
    fn a_function_is_named_by_path_or_by_host() {
        let path = by_path("acme/blur@next/a/b");
        assert_eq!((path.tenant, path.function, path.tag, path.path), ("acme", "blur", Some("next"), Some("a/b")));
        let host = by_host("blur--acme.fn.example.org", "fn.example.org", "/a");
        assert!(host.is_some_and(|named| (named.tenant, named.function, named.path) == ("acme", "blur", Some("a"))));
        for other in
            ["fn.example.org", "blur-acme.fn.example.org", "blur--acme.example.org", "blur--acmefn.example.org"]
        {
            assert!(by_host(other, "fn.example.org", "/").is_none(), "{other}");
        }
    }
}
