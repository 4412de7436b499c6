//! A connection to another server, over HTTP/1.1 or HTTP/2.
//!
//! With TLS both sides choose. Without it a call uses HTTP/1.1, except gRPC, which exists only over HTTP/2 and begins it
//! without asking (RFC 9113, 3.3).

use crate::egress::body::CountedBody;
use crate::egress::connect::{Lookups, connect};
use crate::egress::target::CallTarget;
use gannet_base::hop::outbound::{HEAD_BYTES_MAX, OutboundError, WINDOW};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// The name of HTTP/2 in the TLS handshake.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";
/// The name of HTTP/1.1 in the TLS handshake.
pub(super) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Calls that share an HTTP/2 connection. Servers accept at least 100, mostly.
pub(super) const SHARED_BY_MAX: usize = 32;
/// Flow-control window of a whole HTTP/2 connection, in bytes: that of all calls, so that a body which nobody reads does
/// not block others.
const CONNECTION_WINDOW: u32 = SHARED_BY_MAX as u32 * WINDOW;
/// How connections are made, and by which rules.
pub(super) struct Route<'a> {
    pub(super) lookups: &'a Lookups,
    /// The ranges of addresses that the operator has opened.
    pub(super) opened: &'a [IpNet],
    pub(super) tls: &'a TlsConnector,
}

/// The version of HTTP that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

enum Sender {
    Http1(http1::SendRequest<CountedBody>),
    Http2(http2::SendRequest<CountedBody>),
}

/// A call over a shared connection. Dropping it ends the call.
pub(super) struct CallGuard(Arc<AtomicUsize>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection that can send a request.
pub(super) struct Connection {
    sender: Sender,
    /// Calls that it carries.
    calls: Arc<AtomicUsize>,
    /// The other side's address.
    pub(super) peer: SocketAddr,
    /// When it was made.
    pub(super) made: Instant,
}

/// A request without a response.
pub(super) struct SendFailure {
    pub(super) error: OutboundError,
    /// The request, if nothing of it was sent. It can be sent over another connection.
    pub(super) unsent: Option<Box<Request<CountedBody>>>,
}

fn failure(error: &hyper::Error, unsent: Option<Request<CountedBody>>) -> SendFailure {
    tracing::debug!(%error, "no response to an outbound call");
    let told = if error.is_parse() { OutboundError::Protocol } else { OutboundError::Unreachable };
    SendFailure { error: told, unsent: unsent.map(Box::new) }
}

impl Connection {
    /// Connects, until `by`. `plain` is the protocol for a connection without TLS.
    pub(super) async fn open(
        route: &Route<'_>,
        to: &CallTarget,
        plain: Protocol,
        by: Instant,
    ) -> Result<Self, OutboundError> {
        let connecting = timeout_at(by, connect(route.lookups, route.opened, to)).await;
        let (stream, peer) = connecting.map_err(|_| OutboundError::Unreachable)??;
        let sender = if to.https {
            let host = to.host.trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host).map_err(|_| OutboundError::Tls)?;
            let tls = timeout_at(by, route.tls.connect(name, stream)).await;
            let tls = tls.map_err(|_| OutboundError::Unreachable)?.map_err(|error| {
                tracing::debug!(host = to.host, %error, "the TLS handshake of an outbound call failed");
                OutboundError::Tls
            })?;
            let chosen = tls.get_ref().1.alpn_protocol();
            let protocol = if chosen == Some(ALPN_HTTP2) { Protocol::Http2 } else { Protocol::Http1 };
            handshake(tls, protocol).await?
        } else {
            handshake(stream, plain).await?
        };
        Ok(Self { sender, calls: Arc::default(), peer, made: Instant::now() })
    }

    /// Returns the protocol that it speaks.
    pub(super) fn protocol(&self) -> Protocol {
        match self.sender {
            Sender::Http1(_) => Protocol::Http1,
            Sender::Http2(_) => Protocol::Http2,
        }
    }

    /// Returns a handle of the same connection, if it can carry several requests at once.
    pub(super) fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => {
                let (sender, calls) = (Sender::Http2(sender.clone()), Arc::clone(&self.calls));
                Some(Self { sender, calls, peer: self.peer, made: self.made })
            }
        }
    }

    /// Counts a call until the guard is dropped.
    pub(super) fn begin_call(&self) -> CallGuard {
        self.calls.fetch_add(1, Ordering::AcqRel);
        CallGuard(Arc::clone(&self.calls))
    }

    /// Whether it can carry one more call.
    pub(super) fn has_room(&self) -> bool {
        matches!(self.sender, Sender::Http1(_)) || self.calls.load(Ordering::Acquire) < SHARED_BY_MAX
    }

    /// Whether a request can be sent now.
    pub(super) fn is_usable(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(&mut self, request: Request<CountedBody>) -> Result<Response<Incoming>, SendFailure> {
        let sent = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let unsent = error.take_message();
            failure(error.error(), unsent)
        })
    }

    /// Waits until the bodies of the last request and its response have passed. Returns false if the connection cannot
    /// be used again, as after a response that was not read to its end.
    pub(super) async fn is_done(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }
}

/// Starts a connection over a stream. Its task ends when nobody sends over it any more.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    protocol: Protocol,
) -> Result<Sender, OutboundError> {
    let stream = TokioIo::new(stream);
    let ended = |result: hyper::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(%error, "an outbound connection ended");
        }
    };
    match protocol {
        Protocol::Http1 => {
            let made = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX as usize).handshake(stream).await;
            let (sender, connection) = made.map_err(|_| OutboundError::Protocol)?;
            tokio::spawn(async move { ended(connection.await) });
            Ok(Sender::Http1(sender))
        }
        Protocol::Http2 => {
            let made = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(HEAD_BYTES_MAX)
                .handshake(stream)
                .await;
            let (sender, connection) = made.map_err(|_| OutboundError::Protocol)?;
            tokio::spawn(async move { ended(connection.await) });
            Ok(Sender::Http2(sender))
        }
    }
}
