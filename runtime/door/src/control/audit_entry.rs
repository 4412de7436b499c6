//! The entry of the audit log for a call.

pub(super) use crate::audit::AuditSubject;

use super::authorize::TenantGrant;
use super::call::ApiCall;
use super::operations::{Operation, OperationId};
use crate::audit;
use gannet_base::identity::Caller;
use gannet_base::names::TenantName;
use gannet_base::records::AuditRecord;
use gannet_state::store::audit::OPERATOR;

/// Returns the audit entry of a call, and the logs that it belongs to. A call that only reads has none, unless the
/// operator reads a tenant's data, or somebody reads a list of keys or a secret. What the operator does to a tenant is in the logs of
/// both.
pub(super) fn audit_entry(
    operation: &Operation,
    call: &ApiCall,
    grant: Option<&TenantGrant>,
) -> Option<(Vec<String>, AuditRecord)> {
    let operator = call.caller == Caller::Operator;
    let reads = operation.method == http::Method::GET;
    let reads_keys = matches!(operation.op, OperationId::ListKeys | OperationId::GetWebhookSecret);
    let named = operation.path.starts_with("tenants/{tenant}").then(|| call.names.first()).flatten();
    // A name that no tenant has must not begin a log.
    let named =
        named.and_then(|name| TenantName::new(name).ok()).filter(|name| call.snapshot.tenants.contains_key(name));
    let tenant = grant.map(|grant| grant.tenant.clone()).or(named);
    if reads && !reads_keys && !(operator && tenant.is_some()) {
        return None;
    }
    let mut whose: Vec<String> = tenant.iter().map(ToString::to_string).collect();
    if whose.is_empty() || (operator && grant.is_none()) {
        whose.push(OPERATOR.to_owned());
    }
    Some((whose, audit::entry(&call.inbound, &call.caller, operation.name)))
}
