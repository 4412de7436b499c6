//! For whom an operation of the control API acts, who may not, and what is written down of it.

use crate::access::AccessError;
use crate::control::table::{Access, Op, Operation};
use crate::control::{Acting, Call, ControlError};
use gannet_base::body::ResponseBody;
use gannet_base::headers::TENANT;
use gannet_base::identity::{Caller, Key};
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::records::AuditRecord;
use gannet_base::refusal::Refusal;
use gannet_base::scopes::Scopes;
use gannet_fleet::inbound::Inbound;
use gannet_state::registry::{Snapshot, Tenant};
use gannet_state::store::audit::OPERATOR;
use http::Response;
use std::sync::Arc;

/// What a change was about, beyond its path, for the audit log: names, scopes, values; never a secret. Handlers put it into
/// the extensions of their answer.
#[derive(Debug, Clone)]
pub(super) struct Subject(pub(super) String);

impl Subject {
    /// An answer with it.
    pub(super) fn of(text: impl Into<String>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let text: String = text.into();
        response.extensions_mut().insert(Self(text.chars().take(1024).collect()));
        response
    }
}

/// For whom an operation is, if it is for a tenant; refuses who may not.
pub(super) fn acting(
    operation: &Operation,
    inbound: &Inbound,
    caller: &Caller,
    names: &[String],
    snapshot: &Snapshot,
) -> Result<Option<Acting>, Refusal> {
    let named = inbound.parts.headers.get(TENANT).map(|value| value.to_str().unwrap_or_default());
    let of_key = |key: &Key| {
        let tenant = key.record.tenant.clone();
        let owner = snapshot.tenants.get(&tenant).cloned().ok_or(AccessError::NotFound)?;
        if owner.record.suspended {
            return Err(AccessError::Suspended);
        }
        Ok(Acting { tenant, owner, scopes: key.record.scopes, only: key.record.function.clone() })
    };
    match (operation.access, caller) {
        (Access::Anyone | Access::AnyKey, _) => Ok(None),
        (Access::Operator, Caller::Operator) => Ok(None),
        (Access::Operator, _) => Err(AccessError::ScopeMissing { scope: "operator" }.into()),
        (Access::OperatorOrAdmin, Caller::Operator) => Ok(None),
        (Access::OperatorOrAdmin, Caller::Tenant(key)) => {
            let acting = of_key(key)?;
            acting.needs(acting.scopes.admin, "admin")?;
            acting.covers(None)?;
            // Another tenant and none look the same.
            if names.first().is_none_or(|name| *name != *acting.tenant.as_str()) {
                return Err(ControlError::NotFound.into());
            }
            Ok(Some(acting))
        }
        (access, Caller::Tenant(key)) => {
            let acting = of_key(key)?;
            let scopes = acting.scopes;
            let (has, scope) = match access {
                Access::Read => (scopes.read, "read"),
                Access::Deploy => (scopes.deploy, "deploy"),
                _ => (scopes.admin, "admin"),
            };
            acting.needs(has, scope)?;
            let about = operation.path.starts_with("functions/{name}").then(|| names.first()).flatten();
            let about = about.and_then(|name| FunctionName::new(name).ok());
            let filtered = matches!(operation.op, Op::ListFunctions | Op::Receipt | Op::Usage);
            if !filtered {
                acting.covers(about.as_ref())?;
            }
            Ok(Some(acting))
        }
        (_, Caller::Operator) => {
            let Some(named) = named else {
                return if operation.op == Op::Audit { Ok(None) } else { Err(ControlError::TenantNeeded.into()) };
            };
            let tenant = TenantName::new(named).map_err(|error| ControlError::Invalid(error.to_string()))?;
            // What a deleted one used and did is kept.
            let outlives = matches!(operation.op, Op::Usage | Op::Audit) && snapshot.is_gone(&tenant);
            let gone = || outlives.then(|| Arc::new(Tenant::gone()));
            let owner = snapshot.tenants.get(&tenant).cloned().or_else(gone).ok_or(ControlError::NotFound)?;
            Ok(Some(Acting { tenant, owner, scopes: Scopes::FULL, only: None }))
        }
        (_, Caller::Anonymous) => Err(AccessError::KeyNeeded.into()),
    }
}

/// The entry of the audit log for a call, and in whose log it stands. What only reads has none, unless the operator reads
/// what is a tenant's.
pub(super) fn audited(operation: &Operation, call: &Call, acting: Option<&Acting>) -> Option<(String, AuditRecord)> {
    let operator = call.caller == Caller::Operator;
    let reads = operation.method == http::Method::GET;
    if reads && !(operator && acting.is_some()) {
        return None;
    }
    let actor = match &call.caller {
        Caller::Tenant(key) => key.record.id.clone(),
        _ => OPERATOR.to_owned(),
    };
    let whose = acting.map_or_else(|| OPERATOR.to_owned(), |acting| acting.tenant.to_string());
    let entry = AuditRecord {
        request: call.inbound.id.to_string(),
        time: jiff::Timestamp::now(),
        actor,
        address: call.inbound.client.to_string(),
        action: operation.name.to_owned(),
        path: call.inbound.parts.uri.path().chars().take(256).collect(),
        subject: None,
        status: None,
    };
    Some((whose, entry))
}
