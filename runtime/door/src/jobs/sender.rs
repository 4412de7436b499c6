//! Sends the messages of webhooks through the fleet's outbound HTTP: to public addresses and to those that the operator
//! has opened, never along a redirect.

use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::hop::outbound::OutboundError;
use gannet_fleet::egress::Egress;
use gannet_jobs::delivery::sender::{Answer, Message, SendError, Sender};
use gannet_state::registry::Registry;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

/// Sends messages; see the module.
#[derive(Debug)]
pub struct WebhookSender {
    egress: Arc<Egress>,
    registry: Arc<Registry>,
}

impl WebhookSender {
    /// Creates the sender.
    pub fn new(egress: Arc<Egress>, registry: Arc<Registry>) -> Self {
        Self { egress, registry }
    }

    /// Refuses what is sent for a tenant that is gone, and waits while one is suspended.
    fn check_tenant(&self, message: &Message) -> Result<(), SendError> {
        match self.registry.snapshot().tenants.get(&message.tenant) {
            None => Err(SendError::Refused("the tenant was deleted".into())),
            Some(tenant) if tenant.record.suspended => Err(SendError::NotTried("the tenant is suspended".into())),
            Some(_) => Ok(()),
        }
    }
}

fn failure(error: OutboundError, url: &str) -> SendError {
    match error {
        OutboundError::Prohibited => SendError::Refused(
            "the host has no address that may be reached: private ones need `egress.allow_ranges`, by the operator"
                .into(),
        ),
        OutboundError::NotListed => SendError::Refused("the tenant was deleted".into()),
        OutboundError::Limit { name, limit } => SendError::NotTried(format!("{name} = {limit} is used up")),
        OutboundError::Dns => SendError::Failed("the name of the host could not be resolved".into()),
        OutboundError::Tls => SendError::Failed("the TLS handshake failed".into()),
        OutboundError::Timeout => SendError::Failed("the receiver did not answer in time".into()),
        OutboundError::Unreachable => SendError::Failed("the receiver could not be reached".into()),
        OutboundError::Protocol if !gannet_fleet::egress::is_postable(url) => {
            SendError::Refused("the address is not valid".into())
        }
        OutboundError::Protocol | OutboundError::TooLarge => {
            SendError::Failed("the receiver's answer is not valid".into())
        }
    }
}

impl Sender for WebhookSender {
    fn send(&self, message: Message) -> BoxFuture<'static, Result<Answer, SendError>> {
        let (egress, checked) = (Arc::clone(&self.egress), self.check_tenant(&message));
        async move {
            checked?;
            let Message { tenant, url, headers, body, answer_within } = message;
            let mut head = HeaderMap::new();
            for (name, value) in headers {
                let value = HeaderValue::from_str(&value).map_err(|error| SendError::NotTried(error.to_string()))?;
                head.insert(HeaderName::from_static(name), value);
            }
            let posted = egress.post(&tenant, &url, head, body, answer_within).await;
            let posted = posted.map_err(|error| failure(error, &url))?;
            Ok(Answer { status: posted.status, retry_after: posted.retry_after })
        }
        .boxed()
    }
}
