//! The paths that OpenAI's clients call, beside `/f/`: they name a function as their model, in the body or in the path.
//!
//! ```text
//!  /openai/v1/models           the caller's functions that say `openai = true`
//!  /openai/v1/…                the function that the body's `model` names, or `model@tag`; it sees /v1/…
//!  /v2/{function}/openai/v1/…  that function, whatever it says; it sees /v1/…
//! ```
//!
//! The tenant is the key's. A body is read whole before it is admitted, because it says for whom it is, and whether the answer
//! is a stream: then comments keep the client waiting while a cold function starts ([`keep_alive`]). What such bodies take
//! together is bounded. Refusals have OpenAI's shape on these paths.

mod bodies;
pub mod keep_alive;

pub use bodies::Bodies;

use crate::auth::{Caller, Key};
use crate::control::TENANT_HEADER;
use crate::inbound::Inbound;
use crate::names::TenantName;
use crate::registry::{Function, Snapshot, Tenant};
use crate::respond::{Done, Refused, ResponseBody, json};
use crate::route::RouteError;
use http::{Method, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The function that the path names.
    pub function: Option<&'a str>,
    /// What is behind `/openai/`, as in `v1/models`.
    pub path: &'a str,
}

/// What an OpenAI client asks for by a path, if it is one of these.
pub fn asked(path: &str) -> Option<Asked<'_>> {
    if let Some(path) = path.strip_prefix("/openai/") {
        return Some(Asked { function: None, path });
    }
    let (function, path) = path.strip_prefix("/v2/")?.split_once("/openai/")?;
    (!function.contains('/')).then_some(Asked { function: Some(function), path })
}

/// What the front door needs to know of a body.
#[derive(Debug, Default, Deserialize)]
struct Wanted {
    model: Option<String>,
    #[serde(default)]
    stream: serde_json::Value,
}

/// A request whose function is known.
#[derive(Debug)]
pub struct Called {
    /// Whose it is.
    pub tenant: TenantName,
    /// What the client calls it: a function, or `function@tag`.
    pub model: String,
    /// Whether it must say `openai = true`.
    pub listed_only: bool,
    /// Whether the answer is a stream.
    pub stream: bool,
}

/// Whose functions a caller asks for.
fn tenant_of(inbound: &Inbound, caller: &Caller) -> Result<TenantName, RouteError> {
    match caller {
        Caller::Anonymous => Err(RouteError::KeyNeeded),
        Caller::Tenant(key) => Ok(key.record.tenant.clone()),
        Caller::Operator => {
            let named = inbound.parts.headers.get(TENANT_HEADER).and_then(|value| value.to_str().ok());
            named.and_then(|name| TenantName::new(name).ok()).ok_or(RouteError::NotFound)
        }
    }
}

/// The tenant, if the caller may call its functions.
fn callable<'a>(name: &TenantName, caller: &Caller, snapshot: &'a Snapshot) -> Result<&'a Arc<Tenant>, RouteError> {
    let tenant = snapshot.tenants.get(name).ok_or(RouteError::NotFound)?;
    if tenant.record.suspended {
        return Err(RouteError::Suspended);
    }
    if matches!(caller, Caller::Tenant(key) if !key.record.scopes.invoke) {
        return Err(RouteError::ScopeMissing { scope: "invoke" });
    }
    Ok(tenant)
}

/// Finds out for whom a request is. Its body is read, and kept with it.
pub async fn read(
    inbound: &mut Inbound,
    caller: &Caller,
    snapshot: &Snapshot,
    asked: &Asked<'_>,
    bodies: &Bodies,
) -> Result<Called, Refused> {
    // Before anything is kept for it.
    let tenant = tenant_of(inbound, caller)?;
    callable(&tenant, caller, snapshot)?;
    if asked.function.is_none() && inbound.parts.method != Method::POST {
        let method = inbound.parts.method.to_string();
        return Err(RouteError::MethodNotAllowed { method, allowed: "POST".into() }.into());
    }
    let body = bodies::collect(inbound, tenant.clone(), bodies).await?;
    let wanted = serde_json::from_slice::<Wanted>(&body);
    inbound.collected = Some(body);
    let (model, listed_only, wanted) = match (asked.function, wanted) {
        // What is not JSON is for the function to refuse, if the path has named one.
        (Some(function), wanted) => (function.to_owned(), false, wanted.unwrap_or_default()),
        (None, Ok(mut wanted)) => (wanted.model.take().ok_or(RouteError::ModelNeeded)?, true, wanted),
        (None, Err(error)) => return Err(RouteError::BodyInvalid(error.to_string()).into()),
    };
    let stream = wanted.stream == serde_json::Value::Bool(true);
    Ok(Called { tenant, model, listed_only, stream })
}

#[derive(Debug, Serialize)]
struct Models {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Debug, Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
}

/// Whether a function is a model.
pub fn is_model(function: &Function) -> bool {
    function.current.manifest().http.openai
}

fn model(tenant: &TenantName, id: &str, function: &Function) -> Model {
    let created = function.versions.first().map_or(0, |version| version.record.created.as_second());
    Model { id: id.to_owned(), object: "model", created, owned_by: tenant.to_string() }
}

/// The function that a model is, and its tag.
pub fn split(model: &str) -> (&str, Option<&str>) {
    model.split_once('@').map_or((model, None), |(function, tag)| (function, Some(tag)))
}

/// The models of a caller, or one of them.
pub fn models(
    inbound: &Inbound,
    caller: &Caller,
    snapshot: &Snapshot,
    one: Option<&str>,
) -> Result<Response<ResponseBody>, RouteError> {
    if !matches!(inbound.parts.method, Method::GET | Method::HEAD) {
        let method = inbound.parts.method.to_string();
        return Err(RouteError::MethodNotAllowed { method, allowed: "GET, HEAD".into() });
    }
    let name = tenant_of(inbound, caller)?;
    let tenant = callable(&name, caller, snapshot)?;
    let key: Option<&Key> = if let Caller::Tenant(key) = caller { Some(key) } else { None };
    let covers = |function: &&Arc<Function>| {
        key.and_then(|key| key.record.function.as_ref()).is_none_or(|only| *only == function.name)
    };
    let mut known = tenant.functions.values().filter(|function| is_model(function)).filter(covers);
    match one {
        None => {
            let data = known.map(|found| model(&name, found.name.as_str(), found)).collect();
            Ok(json(Done::Ok, &Models { object: "list", data }))
        }
        Some(one) => {
            let (function, tag) = split(one);
            let found = known.find(|known| known.name.as_str() == function);
            let found = found.filter(|found| tag.is_none_or(|tag| found.tagged(tag).is_some()));
            let found = found.ok_or_else(|| RouteError::ModelNotFound { model: one.chars().take(80).collect() })?;
            Ok(json(Done::Ok, &model(&name, one, found)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_function_or_none() {
        assert_eq!(asked("/openai/v1/models"), Some(Asked { function: None, path: "v1/models" }));
        assert_eq!(asked("/v2/chat/openai/v1/x"), Some(Asked { function: Some("chat"), path: "v1/x" }));
        for other in ["/openai", "/v2/chat/run", "/v2/a/b/openai/v1/x", "/f/dev/openai/", "/v2/openai/v1"] {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
