//! An arriving request, and the reasons to refuse it before its caller is known. After admission,
//! [`admitted`](crate::admitted) has what the request holds.

use crate::calling::CallingRequest;
use gannet_base::hop::RequestCaps;
use gannet_base::manifest::FunctionLimits;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Longest wait for the next part of a request's body.
pub const BODY_IDLE_MAX: Duration = Duration::from_secs(30);
/// How many bytes of a refused body are read, and for how long.
const DISCARD_BYTES_MAX: u64 = 256 << 20;
const DISCARD_MAX: Duration = Duration::from_secs(5);

/// Why a request was refused before its caller was known, or because of its body.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The request is ambiguous or cannot be parsed.
    #[error("{0}")]
    Malformed(String),
    /// A host name that a server with `--dev` does not accept.
    #[error("the host {host:?} is not this machine")]
    BadHost {
        /// The host that the request names.
        host: String,
    },
    /// A request to switch to another protocol.
    #[error("Upgrade and CONNECT are not supported")]
    UpgradeUnsupported,
    /// A transfer encoding other than chunked.
    #[error("only the transfer encoding \"chunked\" is supported, by itself")]
    EncodingUnsupported,
    /// A head with too many fields.
    #[error("the request has {count} header fields; at most {limit} are accepted")]
    HeadTooLarge {
        /// Their number.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A body larger than its limit.
    #[error("the body is larger than the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The bodies of the tenant that must be read whole take too much memory together.
    #[error("the tenant's request bodies that are being read would exceed {limit} bytes, their limit at this moment")]
    BodiesFull {
        /// The limit in bytes. It depends on what other tenants' bodies take.
        limit: u64,
    },
    /// A body that stopped arriving, or took too long as a whole.
    #[error("the body stalled, or was incomplete after {seconds} s")]
    BodyTooSlow {
        /// The limit that passed.
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
            E::EncodingUnsupported => (RefusalKind::NotImplemented, "transfer_encoding_unsupported"),
            E::HeadTooLarge { .. } => (RefusalKind::HeadTooLarge, "head_too_large"),
            E::BodyTooLarge { .. } => (RefusalKind::BodyTooLarge, "body_too_large"),
            E::BodiesFull { .. } => (RefusalKind::Unavailable, "no_capacity"),
            E::BodyTooSlow { .. } => (RefusalKind::ClientTimeout, "body_timeout"),
        };
        let refusal = Self::new(kind, code, Blame::Caller, &error);
        match error {
            E::BadHost { .. } => refusal.hint("a server started with --dev accepts only requests to localhost and to names below the configured domain"),
            E::UpgradeUnsupported => {
                refusal.hint("stream the response body instead: functions can send chunks over time")
            }
            E::BodyTooLarge { .. } => refusal.hint("raise [limits] body_mib in gannet.toml"),
            E::BodiesFull { .. } => Self { blame: Blame::Platform, ..refusal.retry_after(1) },
            E::Malformed(_) | E::EncodingUnsupported | E::HeadTooLarge { .. } | E::BodyTooSlow { .. } => refusal,
        }
    }
}

/// The function that a request is for, set once routing knows it. The front reads it after the request was served.
pub type ServedFunction = Arc<OnceLock<(TenantName, FunctionName)>>;

/// What the listener that accepted a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    /// The only listener: functions and the control API.
    Only,
    /// Functions; another listener serves the control API.
    Functions,
    /// The control API.
    Admin,
}

/// A request as it arrives.
#[derive(Debug)]
pub struct InboundRequest {
    /// Its id, created by the front door.
    pub id: RequestId,
    /// When its head was complete.
    pub arrived: Instant,
    /// A number for its connection.
    pub connection: u64,
    /// Address of the client, found behind trusted proxies.
    pub client: IpAddr,
    /// Whether the client spoke TLS.
    pub https: bool,
    /// What the listener that accepted it is for.
    pub listener: ListenerRole,
    /// Where routing notes the function.
    pub served: ServedFunction,
    /// Method, URI and headers.
    pub parts: Parts,
    /// The body, as far as it was not read yet.
    pub body: Incoming,
    /// The whole body, if it was read before admission.
    pub collected: Option<bytes::Bytes>,
}

/// The body of a request for a function.
#[derive(Debug)]
pub enum FunctionBody {
    /// It arrives from the client.
    Incoming(Incoming),
    /// It is in memory.
    Whole(bytes::Bytes),
}

/// A request for a function, as the pool takes it: from a client, from a job, or from another function.
#[derive(Debug)]
pub struct FunctionRequest {
    /// Its id.
    pub id: RequestId,
    /// When its time began.
    pub arrived: Instant,
    /// Address of the client.
    pub client: IpAddr,
    /// Whether the client spoke TLS.
    pub https: bool,
    /// Method, URI and headers.
    pub parts: Parts,
    /// The body.
    pub body: FunctionBody,
    /// What it may use, if not what its version's limits say.
    pub caps: Option<RequestCaps>,
    /// The job that it is an attempt of, if it is one.
    pub job: Option<JobAttempt>,
    /// The request whose function sent it, if one did, and when its time ends at the latest.
    pub call: Option<(Arc<CallingRequest>, Instant)>,
}

/// An attempt of a job. The function gets both in headers.
#[derive(Debug)]
pub struct JobAttempt {
    /// The job's id.
    pub id: String,
    /// The number of the attempt, from 1.
    pub number: u32,
}

impl FunctionRequest {
    /// Returns how long it may take until the head of its response, in milliseconds.
    pub fn timeout_ms(&self, limits: &FunctionLimits) -> u64 {
        self.caps.map_or(limits.timeout_ms, |caps| caps.timeout_ms)
    }

    /// Returns when the head of its response must be there.
    pub fn deadline(&self, limits: &FunctionLimits) -> Instant {
        let own = self.arrived + Duration::from_millis(self.timeout_ms(limits));
        self.call.as_ref().map_or(own, |(_, until)| own.min(*until))
    }
}

impl From<InboundRequest> for FunctionRequest {
    fn from(inbound: InboundRequest) -> Self {
        let InboundRequest { id, arrived, client, https, parts, body, collected, .. } = inbound;
        // If it was read before admission, nothing is left of what arrives.
        let body = collected.map_or(FunctionBody::Incoming(body), FunctionBody::Whole);
        Self { id, arrived, client, https, parts, body, caps: None, job: None, call: None }
    }
}

impl InboundRequest {
    /// Returns the host that it names, without a port, in lower case. Empty if it names none.
    pub fn host(&self) -> Cow<'_, str> {
        let authority = self.parts.uri.authority().map(http::uri::Authority::as_str);
        let header = || self.parts.headers.get(http::header::HOST)?.to_str().ok();
        host_of(authority.or_else(header).unwrap_or_default())
    }

    /// Refuses a body whose announced length is over `limit` bytes.
    pub fn check_length(&self, limit: u64) -> Result<(), RequestError> {
        let read = self.collected.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if read.max(self.body.size_hint().lower()) > limit { Err(RequestError::BodyTooLarge { limit }) } else { Ok(()) }
    }
}

/// Discards the body of a request that is refused, unless its client waits to hear whether to send it
/// (`Expect: 100-continue`): reading from it would ask for the body.
pub async fn discard_refused(headers: &http::HeaderMap, body: &mut Incoming) {
    if !headers.contains_key(http::header::EXPECT) {
        discard_rest(body).await;
    }
}

/// Reads and discards the rest of a body, within limits. A client that is still sending reads the response only after
/// it has sent its whole body, and a connection that is closed with unread bytes loses the response.
pub async fn discard(mut body: Incoming) {
    discard_rest(&mut body).await;
}

/// Does the same as [`discard`] with a borrowed body.
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

/// Returns the host name in a host header, without port, brackets or a final dot, in lower case.
pub fn host_of(text: &str) -> Cow<'_, str> {
    let name = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => text.split(':').next().unwrap_or_default(),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}
