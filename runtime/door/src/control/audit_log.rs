//! `/api/v1/audit`: the audit log of a tenant, or the operator's.

use super::Control;
use super::authorize::TenantGrant;
use super::call::{ApiCall, CallResult};
use super::error::ControlError;
use crate::respond::{ReplyStatus, json};
use gannet_base::names::RequestId;
use gannet_state::store::audit::OPERATOR;
use std::sync::Arc;

impl Control {
    /// Reads the audit log of a tenant, or the operator's.
    pub(super) async fn audit_log(&self, call: ApiCall, grant: Option<TenantGrant>) -> CallResult {
        let whose = grant.map_or_else(|| OPERATOR.to_owned(), |grant| grant.tenant.to_string());
        let cursor = call.query.get("cursor").map(|text| {
            RequestId::parse(text).ok_or_else(|| ControlError::Invalid("cursor is not from this API".into()))
        });
        let (before, limit) = (cursor.transpose()?, call.query.limit()?);
        let store = Arc::clone(self.registry.store());
        let entries = tokio::task::spawn_blocking(move || store.read_audit(&whose, before, limit)).await;
        let entries =
            entries.map_err(|error| ControlError::Internal(error.to_string()))?.map_err(ControlError::from)?;
        let cursor = (entries.len() == limit).then(|| entries.last().map(|entry| entry.request.clone())).flatten();
        Ok(json(ReplyStatus::Ok, &gannet_api::Audit { entries, cursor }))
    }
}
