//! What sends a message: the outbound HTTP of the server, a stand-in in tests.

use crate::job::Millis;
use bytes::Bytes;
use futures::future::BoxFuture;
use gannet_base::names::TenantName;
use gannet_state::secrets::Vault;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Message {
    /// The tenant that it is sent for.
    pub tenant: TenantName,
    /// The address.
    pub url: String,
    /// The headers of the message, in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body, as JSON.
    pub body: Bytes,
    /// How long the receiver may take to answer, once it has been reached.
    pub answer_within: Duration,
}

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// It may not be sent there, now or later.
    Refused(String),
    /// The receiver was not reached, or did not answer.
    Failed(String),
    /// It was not tried, which is not the receiver's fault.
    NotTried(String),
}

/// Sends messages.
pub trait Sender: Send + Sync + Debug + 'static {
    /// Sends a message with POST. Follows no redirects, and connects to public addresses only.
    fn send(&self, message: Message) -> BoxFuture<'static, Result<Answer, SendError>>;
}

/// What webhooks need of the server.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// Sends the messages.
    pub sender: Arc<dyn Sender>,
    /// Encrypts the secrets that they are signed with.
    pub vault: Arc<Vault>,
    /// The longest delay before the second try, in milliseconds.
    pub first_retry_ms: Millis,
}
