//! `/api/v1/webhooks/secret`: the secret that a tenant's webhooks are signed with.

use super::Control;
use super::audit_entry::AuditSubject;
use super::authorize::TenantGrant;
use super::call::CallResult;
use super::error::ControlError;
use crate::respond::{ReplyStatus, json};
use gannet_api::WebhookSecret;
use gannet_jobs::service;

fn rfc_3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn view(secret: service::WebhookSecret) -> WebhookSecret {
    WebhookSecret {
        secret: secret.text,
        created: rfc_3339(secret.created),
        previous_until: secret.previous_until.map(rfc_3339),
    }
}

impl Control {
    pub(super) async fn webhook_secret(&self, grant: &TenantGrant) -> CallResult {
        let secret = self.jobs.webhook_secret(&grant.tenant).await;
        let secret = secret.map_err(|error| ControlError::Internal(error.to_string()))?;
        Ok(json(ReplyStatus::Ok, &view(secret)))
    }

    pub(super) async fn rotate_webhook_secret(&self, grant: &TenantGrant) -> CallResult {
        let secret = self.jobs.rotate_webhook_secret(&grant.tenant).await;
        let secret = secret.map_err(|error| ControlError::Internal(error.to_string()))?;
        Ok(AuditSubject::of("the secret of webhooks", json(ReplyStatus::Ok, &view(secret))))
    }
}
