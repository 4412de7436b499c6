//! The entry of the audit log for a call.

use super::authorize::TenantGrant;
use super::call::ApiCall;
use super::operations::{Operation, OperationId};
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::TenantName;
use gannet_base::records::AuditRecord;
use gannet_state::store::audit::OPERATOR;
use http::Response;

/// Details of a change for the audit log, beyond its path: names, scopes, values; never a secret. Handlers put it into
/// the extensions of their response.
#[derive(Debug, Clone)]
pub(super) struct AuditSubject(pub(super) String);

impl AuditSubject {
    /// Adds a subject to a response, cut to 1024 characters.
    pub(super) fn of(text: impl Into<String>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let text: String = text.into();
        response.extensions_mut().insert(Self(text.chars().take(1024).collect()));
        response
    }
}

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
    let actor = match &call.caller {
        Caller::Tenant(key) => key.record.id.clone(),
        _ => OPERATOR.to_owned(),
    };
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
