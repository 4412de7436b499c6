//! Decides for which tenant an operation of the control API runs, and whether the caller may call it.

use super::error::ControlError;
use super::operations::{Operation, OperationId, RequiredAccess};
use crate::access::AccessError;
use gannet_base::headers::TENANT;
use gannet_base::identity::{Caller, Key};
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::refusal::Refusal;
use gannet_base::scopes::Scopes;
use gannet_fleet::inbound::InboundRequest;
use gannet_state::registry::{Snapshot, Tenant};
use std::sync::Arc;

/// The tenant that an operation is for, and what the caller may do there.
#[derive(Debug)]
pub(super) struct TenantGrant {
    /// The tenant's name.
    pub(super) tenant: TenantName,
    /// The tenant, as it was when the request came.
    pub(super) owner: Arc<Tenant>,
    /// The scopes of the caller's key; all of them for the operator.
    pub(super) scopes: Scopes,
    /// The function that the key is limited to, if it is.
    pub(super) only: Option<FunctionName>,
}

impl TenantGrant {
    /// Refuses a caller whose key lacks a scope.
    pub(super) fn needs(&self, has: bool, scope: &'static str) -> Result<(), AccessError> {
        if has { Ok(()) } else { Err(AccessError::ScopeMissing { scope }) }
    }

    /// Refuses a key that is limited to another function. `None` stands for the tenant as a whole, which no limited key
    /// covers.
    pub(super) fn covers(&self, function: Option<&FunctionName>) -> Result<(), AccessError> {
        match &self.only {
            Some(only) if function != Some(only) => Err(AccessError::KeyOfOther { function: only.to_string() }),
            _ => Ok(()),
        }
    }
}

/// Returns whether a caller may still read about a function, for an answer that goes on after its request. The key may
/// have been revoked or have expired, the tenant suspended, or the function deleted.
pub(super) fn may_still_read(
    snapshot: &Snapshot,
    caller: &Caller,
    tenant: &TenantName,
    function: &FunctionName,
) -> bool {
    let Some(owner) = snapshot.tenants.get(tenant).filter(|owner| owner.functions.contains_key(function)) else {
        return false;
    };
    match caller {
        Caller::Operator => true,
        Caller::Tenant(key) => {
            let is_valid = |found: &Arc<Key>| !found.is_expired(jiff::Timestamp::now());
            !owner.record.suspended && snapshot.keys.get(&key.hash).is_some_and(is_valid)
        }
        Caller::Anonymous => false,
    }
}

/// Returns the tenant that an operation is for, or None if it is for none. Refuses a caller without access.
pub(super) fn authorize(
    operation: &Operation,
    inbound: &InboundRequest,
    caller: &Caller,
    names: &[String],
    snapshot: &Snapshot,
) -> Result<Option<TenantGrant>, Refusal> {
    let named = inbound.parts.headers.get(TENANT).map(|value| value.to_str().unwrap_or_default());
    let of_key = |key: &Key| {
        let tenant = key.record.tenant.clone();
        let owner = snapshot.tenants.get(&tenant).cloned().ok_or(AccessError::NotFound)?;
        if owner.record.suspended {
            return Err(AccessError::Suspended);
        }
        Ok(TenantGrant { tenant, owner, scopes: key.record.scopes, only: key.record.function.clone() })
    };
    match (operation.access, caller) {
        (RequiredAccess::Anyone | RequiredAccess::AnyKey, _) => Ok(None),
        (RequiredAccess::Operator, Caller::Operator) => Ok(None),
        (RequiredAccess::Operator, _) => Err(AccessError::ScopeMissing { scope: "operator" }.into()),
        (RequiredAccess::OperatorOrAdmin, Caller::Operator) => Ok(None),
        (RequiredAccess::OperatorOrAdmin, Caller::Tenant(key)) => {
            let grant = of_key(key)?;
            grant.needs(grant.scopes.admin, "admin")?;
            grant.covers(None)?;
            // Another tenant gives the same error as one that does not exist.
            if names.first().is_none_or(|name| *name != *grant.tenant.as_str()) {
                return Err(ControlError::NotFound.into());
            }
            Ok(Some(grant))
        }
        (access, Caller::Tenant(key)) => {
            let grant = of_key(key)?;
            let scopes = grant.scopes;
            let (has, scope) = match access {
                RequiredAccess::Read => (scopes.read, "read"),
                RequiredAccess::Deploy => (scopes.deploy, "deploy"),
                _ => (scopes.admin, "admin"),
            };
            grant.needs(has, scope)?;
            let about = operation.path.starts_with("functions/{name}").then(|| names.first()).flatten();
            let about = about.and_then(|name| FunctionName::new(name).ok());
            let filtered =
                matches!(operation.op, OperationId::ListFunctions | OperationId::Receipt | OperationId::Usage);
            if !filtered {
                grant.covers(about.as_ref())?;
            }
            Ok(Some(grant))
        }
        (_, Caller::Operator) => {
            let Some(named) = named else {
                return if operation.op == OperationId::Audit {
                    Ok(None)
                } else {
                    Err(ControlError::TenantNeeded.into())
                };
            };
            let tenant = TenantName::new(named).map_err(|error| ControlError::Invalid(error.to_string()))?;
            // Usage and audit log of a deleted tenant are kept.
            let outlives =
                matches!(operation.op, OperationId::Usage | OperationId::Audit) && snapshot.is_deleted(&tenant);
            let gone = || outlives.then(|| Arc::new(Tenant::deleted_placeholder()));
            let owner = snapshot.tenants.get(&tenant).cloned().or_else(gone).ok_or(ControlError::NotFound)?;
            Ok(Some(TenantGrant { tenant, owner, scopes: Scopes::FULL, only: None }))
        }
        (_, Caller::Anonymous) => Err(AccessError::KeyNeeded.into()),
    }
}
