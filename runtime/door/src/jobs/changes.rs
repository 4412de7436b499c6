//! What calls that configure a function's jobs have in common: who may make them, how often, and their entries in the
//! audit log.
//!
//! To read takes the scope `read` or `invoke`, to change `deploy`. A change that has begun runs to its end, even if its
//! client leaves.

use super::error::JobApiError;
use super::services::JobServices;
use crate::access::AccessError;
use crate::audit;
use crate::route::JobPath;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::quota::rate::{Rate, RateExceeded};
use gannet_base::refusal::Refusal;
use gannet_fleet::admitted::{AddressingStyle, Target};
use gannet_fleet::inbound::InboundRequest;
use gannet_state::registry::{Snapshot, Tenant};
use http::uri::PathAndQuery;
use http::{Method, Response};
use std::sync::Arc;
use std::time::Instant;

/// Refuses a caller that may not make this call for a function of the tenant.
fn authorize(caller: &Caller, owner: &Tenant, function: &str, changes: bool) -> Result<(), AccessError> {
    let key = match caller {
        Caller::Operator => return Ok(()),
        Caller::Anonymous => return Err(AccessError::KeyNeeded),
        Caller::Tenant(key) => key,
    };
    if owner.record.suspended {
        return Err(AccessError::Suspended);
    }
    let scopes = key.record.scopes;
    let (has, scope) = if changes { (scopes.deploy, "deploy") } else { (scopes.read || scopes.invoke, "read") };
    if !has {
        return Err(AccessError::ScopeMissing { scope });
    }
    match &key.record.function {
        Some(only) if only.as_str() != function => Err(AccessError::KeyOfOther { function: only.to_string() }),
        _ => Ok(()),
    }
}

/// Returns the target of a call for a function, whichever of its versions it is about.
pub(super) fn target_of(owner: &Arc<Tenant>, function: &str) -> Option<Target> {
    let function = owner.functions.get(function)?;
    Some(Target {
        tenant: Arc::clone(owner),
        function: Arc::clone(function),
        version: Arc::clone(&function.current),
        path: PathAndQuery::from_static("/"),
        prefix: None,
        style: AddressingStyle::Path,
    })
}

/// Counts a call against the rates that apply.
pub(super) fn count(
    services: &JobServices<'_>,
    inbound: &InboundRequest,
    caller: &Caller,
    target: &Target,
    changes: bool,
) -> Result<(), Refusal> {
    let now = Instant::now();
    services.admit.check_rate(caller, inbound.client, target, now)?;
    if changes && *caller != Caller::Operator {
        let per_s = target.tenant.limits.changes_per_s;
        let rate = Rate { per_s, burst: per_s.saturating_mul(10) };
        let taken = target.tenant.account.changes.take(rate, now);
        taken.map_err(|wait| RateExceeded { whose: "the tenant, through the control API,", rate, wait })?;
    }
    Ok(())
}

/// Checks that a caller may make a call about a function of the tenant, counts it, and returns the function's names with
/// its tenant.
pub(super) fn admit(
    services: &JobServices<'_>,
    inbound: &InboundRequest,
    (caller, tenant, path): (&Caller, &TenantName, &JobPath<'_>),
    snapshot: &Snapshot,
) -> Result<((TenantName, FunctionName), Arc<Tenant>), Refusal> {
    let owner = snapshot.tenants.get(tenant).ok_or(AccessError::NotFound)?;
    let changes = !matches!(inbound.parts.method, Method::GET | Method::HEAD);
    authorize(caller, owner, path.function, changes)?;
    let target = target_of(owner, path.function).ok_or(AccessError::NotFound)?;
    count(services, inbound, caller, &target, changes)?;
    let names = (tenant.clone(), target.function.name.clone());
    // It is set only here, so this cannot fail.
    let _ = inbound.served.set(names.clone());
    Ok((names, Arc::clone(owner)))
}

/// Makes a change of a tenant's function between the two writes of its audit entry. `action` is its name in the OpenAPI
/// document.
pub(super) async fn audited(
    services: &JobServices<'_>,
    inbound: &InboundRequest,
    (caller, tenant, action): (&Caller, &TenantName, &str),
    change: impl Future<Output = Result<Response<ResponseBody>, Refusal>> + Send + 'static,
) -> Result<Response<ResponseBody>, Refusal> {
    let (trail, id) = (Arc::clone(services.trail), inbound.id);
    let (whose, entry) = (vec![tenant.to_string()], audit::entry(inbound, caller, action));
    let running = tokio::spawn(async move { trail.around::<JobApiError>((whose, id, entry), change).await });
    running.await.map_err(|error| JobApiError::from(std::io::Error::other(error)))?
}
