//! The audit log: what stands in it of a call, and reading it.

use super::Control;
use super::authorize::TenantAccess;
use super::call::{Answered, Call};
use super::error::ControlError;
use super::table::Operation;
use super::views;
use crate::respond::{Done, json};
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::RequestId;
use gannet_base::records::AuditRecord;
use gannet_state::store::audit::OPERATOR;
use http::Response;
use std::sync::Arc;

/// What a change was about, beyond its path, for the audit log: names, scopes, values; never a secret. Handlers put it into
/// the extensions of their answer.
#[derive(Debug, Clone)]
pub(super) struct AuditSubject(pub(super) String);

impl AuditSubject {
    /// An answer with it.
    pub(super) fn of(text: impl Into<String>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let text: String = text.into();
        response.extensions_mut().insert(Self(text.chars().take(1024).collect()));
        response
    }
}

/// The entry of the audit log for a call, and in whose log it stands. What only reads has none, unless the operator reads
/// what is a tenant's.
pub(super) fn audit_entry(
    operation: &Operation,
    call: &Call,
    acting: Option<&TenantAccess>,
) -> Option<(String, AuditRecord)> {
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

impl Control {
    /// Reads the audit log of a tenant, or the operator's.
    pub(super) async fn audit_log(&self, call: Call, acting: Option<TenantAccess>) -> Answered {
        let whose = acting.map_or_else(|| OPERATOR.to_owned(), |acting| acting.tenant.to_string());
        let cursor = call.query.get("cursor").map(|text| {
            RequestId::parse(text).ok_or_else(|| ControlError::Invalid("cursor is none that was told".into()))
        });
        let (before, limit) = (cursor.transpose()?, call.query.limit()?);
        let store = Arc::clone(self.registry.store());
        let entries = tokio::task::spawn_blocking(move || store.audited(&whose, before, limit)).await;
        let entries =
            entries.map_err(|error| ControlError::Internal(error.to_string()))?.map_err(ControlError::from)?;
        let cursor = (entries.len() == limit).then(|| entries.last().map(|entry| entry.request.clone())).flatten();
        Ok(json(Done::Ok, &views::Audit { entries, cursor }))
    }
}
