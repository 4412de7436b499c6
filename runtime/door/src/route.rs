//! Step 3: finds the function and version that a path or host names. It reads the published snapshot, never the store.
//!
//! ```text
//!  /f/{tenant}/{function}/…           by path; /f/{tenant}/{function}@{tag}/… for a version under a tag
//!  {function}--{tenant}.{domain}/…    by host, where a domain is set; the header x-gannet-tag for a tag
//!  /openai/…, /v2/{function}/openai/… by the model that a body names, or by path, for OpenAI's clients: see `openai`
//!  /v2/{function}/…                   by path, of the caller's tenant: see `jobs`
//!  /hooks/{tenant}/{function}/…       by path, without a key: see `jobs/inbound`
//!  everything else                    the control API
//! ```
//!
//! A function that does not exist and one of another tenant give the same error. Functions find others of their own
//! tenant by name ([`sibling`]).

use crate::access::AccessError;
use gannet_base::headers;
use gannet_base::identity::{Caller, Key};
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::admitted::{AddressingStyle, Target};
use gannet_fleet::inbound::{InboundRequest, ListenerRole};
use gannet_state::config::ServerConfig;
use gannet_state::registry::{Function, Snapshot, Version};
use http::request::Parts;
use http::uri::PathAndQuery;
use std::sync::Arc;

/// Why a request could not be routed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The function does not exist, or the caller has no access to it.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The path is ambiguous or invalid.
    #[error("the path {0}")]
    PathInvalid(String),
}

impl From<RouteError> for Refusal {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Access(error) => error.into(),
            RouteError::PathInvalid(_) => Self::new(RefusalKind::Malformed, "path_invalid", Blame::Caller, error),
        }
    }
}

/// Where a request goes.
#[derive(Debug)]
pub enum Destination {
    /// To a function.
    Function(Target),
    /// To a function that the body of an OpenAI client's request names.
    OpenAi,
    /// To the job API.
    Jobs,
    /// To a hook.
    Hook,
    /// To the control API.
    Control,
}

/// A function as a request names it. Nothing is checked yet.
struct NamedFunction<'a> {
    tenant: &'a str,
    function: &'a str,
    tag: Option<&'a str>,
    path: Option<&'a str>,
    /// The part of the request's path before that.
    prefix: Option<String>,
    style: AddressingStyle,
}

/// Parses the part of a path after `/f/`.
fn by_path(rest: &str) -> NamedFunction<'_> {
    let mut parts = rest.splitn(3, '/');
    let (tenant, name, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    let (function, tag) = name.split_once('@').map_or((name, None), |(function, tag)| (function, Some(tag)));
    let prefix = Some(format!("/f/{tenant}/{name}"));
    NamedFunction { tenant, function, tag, path, prefix, style: AddressingStyle::Path }
}

/// Parses a host of the form `{function}--{tenant}.{domain}`. Returns None for other hosts.
fn by_host<'a>(host: &'a str, domain: &str, path: &'a str) -> Option<NamedFunction<'a>> {
    let label = host.strip_suffix(domain)?.strip_suffix('.')?;
    let (function, tenant) = label.split_once("--")?;
    let path = path.strip_prefix('/');
    Some(NamedFunction { tenant, function, tag: None, path, prefix: None, style: AddressingStyle::Host })
}

fn named<'a>(inbound: &'a InboundRequest, host: &'a str, file: &ServerConfig) -> Option<NamedFunction<'a>> {
    if inbound.listener == ListenerRole::Admin {
        return None;
    }
    let path = inbound.parts.uri.path();
    let of_host = file.domain.as_deref().and_then(|domain| by_host(host, domain, path));
    of_host.or_else(|| path.strip_prefix("/f/").map(by_path))
}

/// The version whose manifest lists the allowed origins of a request. It is used for CORS only, never for access.
#[derive(Debug)]
pub enum CorsPolicy {
    /// A function that anybody may call.
    Public(Arc<Version>),
    /// A function that needs a key, or None if it does not exist. Callers without a key must not learn which.
    Hidden(Option<Arc<Version>>),
}

/// Returns the CORS policy of the function that a request names by path or host. None if it names none.
pub fn cors_policy(inbound: &InboundRequest, snapshot: &Snapshot, file: &ServerConfig) -> Option<CorsPolicy> {
    let host = inbound.host();
    let named = named(inbound, &host, file)?;
    let tenant = snapshot.tenants.get(named.tenant).filter(|tenant| !tenant.record.suspended);
    let function = tenant.and_then(|tenant| tenant.functions.get(named.function));
    Some(match function.map(|function| Arc::clone(&function.current)) {
        Some(version) if version.manifest().http.public => CorsPolicy::Public(version),
        version => CorsPolicy::Hidden(version),
    })
}

/// A path of OpenAI's clients.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenAiPath<'a> {
    /// The function, if the path names one.
    pub function: Option<&'a str>,
    /// The part after `/openai/`, such as `v1/models`.
    pub path: &'a str,
}

/// Parses a path of OpenAI's clients. Returns None for other paths.
pub fn openai_path(path: &str) -> Option<OpenAiPath<'_>> {
    if let Some(path) = path.strip_prefix("/openai/") {
        return Some(OpenAiPath { function: None, path });
    }
    let (function, path) = path.strip_prefix("/v2/")?.split_once("/openai/")?;
    (!function.contains('/')).then_some(OpenAiPath { function: Some(function), path })
}

/// A path of the job API.
#[derive(Debug, PartialEq, Eq)]
pub struct JobPath<'a> {
    /// The function.
    pub function: &'a str,
    /// The call, such as `run` or `status`.
    pub call: &'a str,
    /// What follows the call: the id of a job, or nothing.
    pub rest: &'a str,
}

/// Parses a path of the job API. Returns None for other paths.
pub fn job_path(path: &str) -> Option<JobPath<'_>> {
    let (function, rest) = path.strip_prefix("/v2/")?.split_once('/')?;
    let (call, rest) = rest.split_once('/').unwrap_or((rest, ""));
    (call != "openai" && !function.is_empty()).then_some(JobPath { function, call, rest })
}

/// The path of a hook.
#[derive(Debug, PartialEq, Eq)]
pub struct HookPath<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The function.
    pub function: &'a str,
    /// The hook.
    pub name: &'a str,
    /// What must be the hook's token.
    pub token: &'a str,
}

/// What the paths of hooks begin with.
const HOOKS: &str = "/hooks/";

/// Parses the path of a hook. Returns None for other paths.
pub fn hook_path(path: &str) -> Option<HookPath<'_>> {
    let mut parts = path.strip_prefix(HOOKS)?.split('/');
    let found = HookPath { tenant: parts.next()?, function: parts.next()?, name: parts.next()?, token: parts.next()? };
    parts.next().is_none().then_some(found)
}

/// Returns the URL of a hook of a function, below the server's URL.
pub fn hook_url(base: &str, (tenant, function): &(TenantName, FunctionName), name: &str, token: &str) -> String {
    format!("{base}{HOOKS}{tenant}/{function}/{name}/{token}")
}

/// Whether errors of a path have the form of the job API.
pub fn has_job_errors(path: &str) -> bool {
    path.starts_with("/v2/") || path.starts_with(HOOKS)
}

/// Returns the tenant whose functions a caller asks for, where the path does not name it.
pub fn calling_tenant(inbound: &InboundRequest, caller: &Caller) -> Result<TenantName, AccessError> {
    match caller {
        // Here it can be meant for nobody else.
        Caller::Anonymous if inbound.parts.headers.contains_key(http::header::AUTHORIZATION) => {
            Err(AccessError::KeyOfElsewhere)
        }
        Caller::Anonymous => Err(AccessError::KeyNeeded),
        Caller::Tenant(key) => Ok(key.record.tenant.clone()),
        Caller::Operator => {
            let named = inbound.parts.headers.get(headers::TENANT).and_then(|value| value.to_str().ok());
            named.and_then(|name| TenantName::new(name).ok()).ok_or(AccessError::NotFound)
        }
    }
}

/// Whether a path is a health check. Health checks are served on every listener.
fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Decides where a request goes.
pub fn destination(
    inbound: &InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
    file: &ServerConfig,
) -> Result<Destination, RouteError> {
    let host = inbound.host();
    let path = inbound.parts.uri.path();
    if let Some(named) = named(inbound, &host, file) {
        return target(&named, inbound, caller, snapshot).map(Destination::Function);
    }
    if inbound.listener != ListenerRole::Admin && openai_path(path).is_some() {
        check_segments(path.trim_start_matches('/'))?;
        return Ok(Destination::OpenAi);
    }
    if inbound.listener != ListenerRole::Admin && job_path(path).is_some() {
        check_segments(path.trim_start_matches('/'))?;
        return Ok(Destination::Jobs);
    }
    if inbound.listener != ListenerRole::Admin && path.starts_with(HOOKS) {
        check_segments(path.trim_start_matches('/'))?;
        return Ok(Destination::Hook);
    }
    let of_functions = file.domain.as_deref().is_some_and(|domain| host.ends_with(&format!(".{domain}")));
    if of_functions || inbound.listener == ListenerRole::Functions && !is_health(path) {
        return Err(not_visible(caller).into());
    }
    Ok(Destination::Control)
}

/// Returns the target for a function that an OpenAI client names as its model. `path` is the path that the function
/// sees.
pub fn by_model(
    (tenant, function, tag): (&str, &str, Option<&str>),
    path: &str,
    inbound: &InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
) -> Result<Target, RouteError> {
    let style = AddressingStyle::Path;
    let named = NamedFunction { tenant, function, tag, path: Some(path), prefix: None, style };
    target(&named, inbound, caller, snapshot)
}

/// Returns the error for what does not exist. A caller without a key gets the same error for what it may not see.
fn not_visible(caller: &Caller) -> AccessError {
    if *caller == Caller::Anonymous { AccessError::KeyNeeded } else { AccessError::NotFound }
}

fn target(
    named: &NamedFunction<'_>,
    inbound: &InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
) -> Result<Target, RouteError> {
    check_segments(match named.style {
        AddressingStyle::Path => inbound.parts.uri.path().strip_prefix("/f/").unwrap_or_default(),
        AddressingStyle::Host => named.path.unwrap_or_default(),
    })?;
    let tenant = snapshot.tenants.get(named.tenant).ok_or_else(|| not_visible(caller))?;
    let function = tenant.functions.get(named.function);
    let chosen = function.and_then(|function| Some((function, choose(function, named, inbound)?)));
    let (function, version) = match chosen {
        Some((function, version)) if may_call(caller, named.tenant, function, version) => (function, version),
        _ => return Err(not_visible(caller).into()),
    };
    let own = |key: &Key| key.record.tenant.as_str() == named.tenant;
    if tenant.record.suspended {
        let may_know = match caller {
            Caller::Operator => true,
            Caller::Tenant(key) => own(key),
            Caller::Anonymous => false,
        };
        return Err(if may_know { AccessError::Suspended } else { not_visible(caller) }.into());
    }
    if let Caller::Tenant(key) = caller
        && own(key)
        && !is_public(function, version)
    {
        check_key(key, &function.name)?;
    }
    let (path, query) = (named.path.unwrap_or_default(), inbound.parts.uri.query());
    let mut text = String::with_capacity(path.len() + query.map_or(0, str::len) + 2);
    text.push('/');
    text.push_str(path);
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    let path = PathAndQuery::try_from(text);
    let path = path.map_err(|_| RouteError::PathInvalid("cannot be parsed".into()))?;
    let (tenant, function, version) = (Arc::clone(tenant), Arc::clone(function), Arc::clone(version));
    Ok(Target { tenant, function, version, path, prefix: named.prefix.clone(), style: named.style })
}

fn choose<'a>(function: &'a Function, named: &NamedFunction<'_>, inbound: &InboundRequest) -> Option<&'a Arc<Version>> {
    let sent = &inbound.parts.headers;
    let tag = named.tag.or_else(|| sent.get(headers::TAG)?.to_str().ok());
    match tag {
        Some(tag) => function.tagged(tag),
        None => Some(function.choose(sent, inbound.id)),
    }
}

/// Returns the target of a call by another function of the tenant. It needs no key, and the function need not be public.
pub fn sibling(
    (tenant, function): (&TenantName, &str),
    parts: &Parts,
    id: RequestId,
    snapshot: &Snapshot,
) -> Result<Target, RouteError> {
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let segments = path.path().strip_prefix('/');
    check_segments(segments.ok_or_else(|| RouteError::PathInvalid("does not begin with a slash".into()))?)?;
    let tenant = snapshot.tenants.get(tenant).ok_or(AccessError::NotFound)?;
    if tenant.record.suspended {
        return Err(AccessError::Suspended.into());
    }
    let function = tenant.functions.get(function).ok_or(AccessError::NotFound)?;
    let version = match parts.headers.get(headers::TAG) {
        Some(tag) => tag.to_str().ok().and_then(|tag| function.tagged(tag)).ok_or(AccessError::NotFound)?,
        None => function.choose(&parts.headers, id),
    };
    let (tenant, function, version) = (Arc::clone(tenant), Arc::clone(function), Arc::clone(version));
    // Nothing else has its origin, and no browser reads the response.
    Ok(Target { tenant, function, version, path, prefix: None, style: AddressingStyle::Host })
}

/// Checks that a key of the tenant may call a function.
pub fn check_key(key: &Key, function: &FunctionName) -> Result<(), AccessError> {
    if let Some(only) = key.record.function.as_ref().filter(|only| *only != function) {
        return Err(AccessError::KeyOfOther { function: only.to_string() });
    }
    if key.record.scopes.invoke { Ok(()) } else { Err(AccessError::ScopeMissing { scope: "invoke" }) }
}

/// Whether anyone may call a version. A version without traffic and tags is not public: its manifest may be out of
/// date.
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

/// Refuses a path that a guest, a proxy and this server could read differently: one with empty or dot segments, escaped
/// separators, or NUL.
fn check_segments(path: &str) -> Result<(), RouteError> {
    let invalid = |why: &str| Err(RouteError::PathInvalid(why.to_owned()));
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return invalid("has an empty segment");
        }
        // Almost no segment has one of these, and the checks below copy it.
        if !segment.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
            continue;
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

    #[test]
    fn a_path_names_a_hook_or_none() {
        let hook = HookPath { tenant: "acme", function: "blur", name: "github", token: "t" };
        assert_eq!(hook_path("/hooks/acme/blur/github/t"), Some(hook));
        for other in ["/hooks/acme/blur/github", "/hooks/a/b/c/d/e", "/v2/hooks/a/b/c", "/hooks"] {
            assert_eq!(hook_path(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_names_a_function_or_none() {
        assert_eq!(openai_path("/openai/v1/models"), Some(OpenAiPath { function: None, path: "v1/models" }));
        assert_eq!(openai_path("/v2/chat/openai/v1/x"), Some(OpenAiPath { function: Some("chat"), path: "v1/x" }));
        for other in ["/openai", "/v2/chat/run", "/v2/a/b/openai/v1/x", "/f/dev/openai/", "/v2/openai/v1"] {
            assert_eq!(openai_path(other), None, "{other}");
        }
    }
}
