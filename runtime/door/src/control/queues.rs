//! `/api/v1/queues`: the queues of all functions of a tenant. That of one function is `/v2/{function}/pause`.

use super::Control;
use super::authorize::TenantGrant;
use super::call::CallResult;
use super::error::ControlError;
use crate::respond::{ReplyStatus, json};
use gannet_api::QueuesPaused;

impl Control {
    pub(super) async fn pause_queues(&self, grant: &TenantGrant, paused: bool) -> CallResult {
        let done = self.jobs.pause(&grant.tenant, None, paused).await;
        done.map_err(|error| ControlError::Internal(error.to_string()))?;
        Ok(json(ReplyStatus::Ok, &QueuesPaused { paused }))
    }
}
