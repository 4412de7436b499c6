//! The paths that OpenAI's clients call. They name a function as their model, in the body or in the path.
//!
//! ```text
//!  /openai/v1/models           the caller's functions that say `openai = true`
//!  /openai/v1/…                the function that the body's `model` names, or `model@tag`; it sees /v1/…
//!  /v2/{function}/openai/v1/…  that function, with or without `openai = true`; it sees /v1/…
//! ```
//!
//! The tenant is the key's, or for the operator the one in `x-gannet-tenant`. A body is read whole before admission,
//! because it names the function and says whether the response is a stream. Comments keep a stream alive while a cold
//! function starts ([`keep_alive`]). The memory for such bodies is bounded. Refusals on these paths have the form of
//! OpenAI's errors.

mod error;
mod fields;
pub mod keep_alive;

pub use error::OpenAiError;

use crate::access::AccessError;
use crate::respond::{ReplyStatus, json};
use crate::route::{self, OpenAiPath, RouteError, calling_tenant, openai_path};
use crate::whole_body::{self, BodyBudget};
use gannet_base::body::ResponseBody;
use gannet_base::identity::{Caller, Key};
use gannet_base::names::TenantName;
use gannet_base::refusal::Refusal;
use gannet_fleet::admitted::Target;
use gannet_fleet::inbound::InboundRequest;
use gannet_state::registry::{Function, Snapshot, Tenant};
use http::{Method, Response};
use serde::Serialize;
use std::sync::Arc;

/// The largest body in bytes, whatever the function's own limit is.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// Where an OpenAI client's request goes.
pub enum OpenAiDestination {
    /// To the client, without a function: the response lists the models, or describes one of them.
    Models(Response<ResponseBody>),
    /// To a function.
    Function {
        /// The function.
        target: Target,
        /// Whether the client asks for a stream.
        stream: bool,
    },
}

/// Decides where an OpenAI client's request goes. Reads the body of a request for a function and keeps it in
/// `inbound.collected`.
pub async fn find(
    inbound: &mut InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
    bodies: &BodyBudget,
) -> Result<OpenAiDestination, Refusal> {
    let path = inbound.parts.uri.path().to_owned();
    let asked = openai_path(&path).ok_or(AccessError::NotFound)?;
    if asked.function.is_none() {
        let one = asked.path.strip_prefix("v1/models").map(|rest| rest.strip_prefix('/'));
        if let Some(one) = one.filter(|one| one.is_some() || asked.path == "v1/models") {
            return Ok(OpenAiDestination::Models(models(inbound, caller, snapshot, one)?));
        }
    }
    let called = read(inbound, caller, snapshot, &asked, bodies).await?;
    let (function, tag) = split(&called.model);
    let tenant = called.tenant.as_str();
    if called.listed_only && !snapshot.function(tenant, function).is_some_and(|function| is_model(function)) {
        return Err(OpenAiError::model_not_found(&called.model).into());
    }
    let target = route::by_model((tenant, function, tag), asked.path, inbound, caller, snapshot);
    let target = target.map_err(|error| match error {
        RouteError::Access(AccessError::NotFound) => OpenAiError::model_not_found(&called.model).into(),
        other => Refusal::from(other),
    })?;
    Ok(OpenAiDestination::Function { target, stream: called.stream })
}

/// A request whose function is known.
#[derive(Debug)]
struct ModelCall {
    /// The tenant that owns the function.
    tenant: TenantName,
    /// The model as the client names it: a function, or `function@tag`.
    model: String,
    /// Whether the function's manifest must say `openai = true`.
    listed_only: bool,
    /// Whether the client asks for a stream.
    stream: bool,
}

/// Returns the tenant if the caller may call its functions.
fn callable<'a>(name: &TenantName, caller: &Caller, snapshot: &'a Snapshot) -> Result<&'a Arc<Tenant>, AccessError> {
    let tenant = snapshot.tenants.get(name).ok_or(AccessError::NotFound)?;
    if tenant.record.suspended {
        return Err(AccessError::Suspended);
    }
    if matches!(caller, Caller::Tenant(key) if !key.record.scopes.invoke) {
        return Err(AccessError::ScopeMissing { scope: "invoke" });
    }
    Ok(tenant)
}

/// Reads the body, keeps it in `inbound.collected`, and finds the tenant and the model.
async fn read(
    inbound: &mut InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
    asked: &OpenAiPath<'_>,
    bodies: &BodyBudget,
) -> Result<ModelCall, Refusal> {
    // Checked before any of the body is kept in memory.
    let tenant = calling_tenant(inbound, caller)?;
    callable(&tenant, caller, snapshot)?;
    if asked.function.is_none() && inbound.parts.method != Method::POST {
        let method = inbound.parts.method.to_string();
        return Err(AccessError::MethodNotAllowed { method, allowed: "POST".into() }.into());
    }
    let body = whole_body::collect(inbound, tenant.clone(), bodies, BODY_BYTES_MAX).await?;
    let wanted = fields::read(&body).await;
    inbound.collected = Some(body);
    let (model, listed_only, wanted) = match (asked.function, wanted) {
        // If the path names the function, a body that is not JSON is left to the function to refuse.
        (Some(function), wanted) => (function.to_owned(), false, wanted.unwrap_or_default()),
        (None, Ok(mut wanted)) => (wanted.model.take().ok_or(OpenAiError::ModelNeeded)?, true, wanted),
        (None, Err(error)) => return Err(OpenAiError::BodyInvalid(error).into()),
    };
    Ok(ModelCall { tenant, model, listed_only, stream: wanted.stream.0 })
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

/// Whether a function is listed as a model.
fn is_model(function: &Function) -> bool {
    function.current.manifest().http.openai
}

fn model(tenant: &TenantName, id: &str, function: &Function) -> Model {
    let created = function.versions.first().map_or(0, |version| version.record.created.as_second());
    Model { id: id.to_owned(), object: "model", created, owned_by: tenant.to_string() }
}

/// Splits a model's name into function and tag.
fn split(model: &str) -> (&str, Option<&str>) {
    model.split_once('@').map_or((model, None), |(function, tag)| (function, Some(tag)))
}

/// Lists the models that a caller may use, or describes `one` of them.
fn models(
    inbound: &InboundRequest,
    caller: &Caller,
    snapshot: &Snapshot,
    one: Option<&str>,
) -> Result<Response<ResponseBody>, OpenAiError> {
    if !matches!(inbound.parts.method, Method::GET | Method::HEAD) {
        let method = inbound.parts.method.to_string();
        return Err(AccessError::MethodNotAllowed { method, allowed: "GET, HEAD".into() }.into());
    }
    let name = calling_tenant(inbound, caller)?;
    let tenant = callable(&name, caller, snapshot)?;
    let key: Option<&Key> = if let Caller::Tenant(key) = caller { Some(key) } else { None };
    let covers = |function: &&Arc<Function>| {
        key.and_then(|key| key.record.function.as_ref()).is_none_or(|only| *only == function.name)
    };
    let mut known = tenant.functions.values().filter(|function| is_model(function)).filter(covers);
    match one {
        None => {
            let data = known.map(|found| model(&name, found.name.as_str(), found)).collect();
            Ok(json(ReplyStatus::Ok, &Models { object: "list", data }))
        }
        Some(one) => {
            let (function, tag) = split(one);
            let found = known.find(|known| known.name.as_str() == function);
            let found = found.filter(|found| tag.is_none_or(|tag| found.tagged(tag).is_some()));
            let found = found.ok_or_else(|| OpenAiError::model_not_found(one))?;
            Ok(json(ReplyStatus::Ok, &model(&name, one, found)))
        }
    }
}
