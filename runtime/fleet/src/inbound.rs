//! A request on its way in, and why it can be refused before anybody has looked at who sent it. Once it is admitted,
//! `admitted` goes along with it.

use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// From one part of a request's body to the next.
pub const BODY_IDLE_MAX: Duration = Duration::from_secs(30);
/// How much of a refused body is read, and for how long.
const DISCARD_BYTES_MAX: u64 = 256 << 20;
const DISCARD_MAX: Duration = Duration::from_secs(5);

/// Why a request was refused before anybody looked at who sent it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// It could be read in two ways, or not at all.
    #[error("{0}")]
    Malformed(String),
    /// A host name that a development server does not answer to.
    #[error("the host {host:?} is not this machine")]
    BadHost {
        /// What was asked for.
        host: String,
    },
    /// Another protocol.
    #[error("Upgrade and CONNECT are not supported")]
    UpgradeUnsupported,
    /// A body over its limit.
    #[error("the body is larger than the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// Bodies that must be read whole take too much together.
    #[error("bodies that are being read have {limit} bytes together; that is the most at this moment")]
    BodiesFull {
        /// The limit.
        limit: u64,
    },
    /// A body that stopped coming.
    #[error("no part of the body came for {seconds} s")]
    BodyTooSlow {
        /// How long.
        seconds: u64,
    },
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        use RequestError as E;
        let (kind, code) = match &error {
            E::Malformed(_) => (RefusalKind::Malformed, "malformed_request"),
            E::BadHost { .. } => (RefusalKind::Malformed, "bad_host"),
            E::UpgradeUnsupported => (RefusalKind::NotImplemented, "upgrade_unsupported"),
            E::BodyTooLarge { .. } => (RefusalKind::BodyTooLarge, "body_too_large"),
            E::BodiesFull { .. } => (RefusalKind::Unavailable, "no_capacity"),
            E::BodyTooSlow { .. } => (RefusalKind::ClientTimeout, "body_timeout"),
        };
        let refusal = Self::new(kind, code, Blame::Caller, &error);
        match error {
            E::BadHost { .. } => refusal.hint("a server started with --dev answers only to localhost"),
            E::UpgradeUnsupported => {
                refusal.hint("stream the response body instead: functions can send chunks over time")
            }
            E::BodyTooLarge { .. } => refusal.hint("raise [limits] body_mib in gannet.toml"),
            E::BodiesFull { .. } => Self { blame: Blame::Platform, ..refusal.retry_after(1) },
            E::Malformed(_) | E::BodyTooSlow { .. } => refusal,
        }
    }
}

/// Whose function a request was for, once that is known: for the access log.
pub type ServedFunction = Arc<OnceLock<(TenantName, FunctionName)>>;

/// By which of its addresses a request has reached the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    /// The only one: functions and the control API.
    Only,
    /// The one for functions, where another is for the control API.
    Functions,
    /// The one for the control API.
    Admin,
}

/// A request on its way in.
#[derive(Debug)]
pub struct InboundRequest {
    /// Its id.
    pub id: RequestId,
    /// When its head was complete.
    pub arrived: Instant,
    /// Whose address it came from.
    pub client: IpAddr,
    /// Whether the client spoke TLS.
    pub https: bool,
    /// Whether it came in by the address for the control API.
    pub listener: ListenerRole,
    /// Whose function it is for, for the access log.
    pub served: Option<ServedFunction>,
    /// Its head.
    pub parts: Parts,
    /// Its body.
    pub body: Incoming,
    /// What was read of it already: all of it.
    pub collected: Option<bytes::Bytes>,
}

impl InboundRequest {
    /// The host that it is for, without a port, in lower case.
    pub fn host(&self) -> String {
        let authority = self.parts.uri.authority().map(http::uri::Authority::as_str);
        let header = || self.parts.headers.get(http::header::HOST)?.to_str().ok();
        host_of(authority.or_else(header).unwrap_or_default())
    }

    /// Refuses a body whose announced length is over the limit.
    pub fn check_length(&self, limit: u64) -> Result<(), RequestError> {
        let read = self.collected.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if read.max(self.body.size_hint().lower()) > limit { Err(RequestError::BodyTooLarge { limit }) } else { Ok(()) }
    }
}

/// Reads and throws away what is left of a body, for a while: a client that is still sending reads an
/// answer only when it can send to the end, and a connection closed with bytes unread loses the answer.
pub async fn discard(mut body: Incoming) {
    discard_rest(&mut body).await;
}

/// The same with a body that stays where it is.
pub async fn discard_rest(body: &mut Incoming) {
    let discarding = async {
        let mut left = DISCARD_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Past this the client sees its connection close.
    let _ = tokio::time::timeout(DISCARD_MAX, discarding).await;
}

/// The name in a host header, in lower case.
pub fn host_of(text: &str) -> String {
    let name = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => text.split(':').next().unwrap_or_default(),
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
