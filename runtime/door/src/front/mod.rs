//! Step 1: accepts connections, speaks TLS and HTTP, gives each request an id, and sends the response.
//!
//! ```text
//!  accept ─▶ TLS ─▶ HTTP/1.1 or HTTP/2 ─▶ id, checks ─▶ preflights ─▶ auth ─▶ … ─▶ response ─▶ access log
//!             │ header timeout and limits                               └ refusal ─▶ respond
//!             └ a connection whose writes stall, that is idle for too long, or that must make room, is closed
//! ```
//!
//! Refuses a request here if its head is ambiguous (two lengths, or a length together with chunked encoding), if it
//! asks for another protocol, or if its head is too large or too slow.

mod access_log;
mod check;
mod client;
mod cors;
mod io;
mod line_ends;
mod path;
mod peers;
mod seats;
mod held_body;
mod counted_body;
mod tls;

pub use access_log::AccessLog;
pub(crate) use check::check_head;
pub use held_body::WaitingAnswers;
pub use path::Steps;
pub use tls::{Tls, check as check_tls};

use crate::respond::{refuse, refuse_job, refuse_openai, stamp, without_body};
use crate::route::{self, CorsPolicy, has_job_errors, openai_path};
use crate::waiting_bytes::Recipient;
use access_log::LoggedRequest;
use gannet_base::body::ResponseBody;
use gannet_base::names::RequestId;
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::inbound::{InboundRequest, ListenerRole, ServedFunction};
use gannet_state::config::LiveConfig;
use gannet_state::registry::Version;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use seats::{SeatGuard, SeatLimits, Seats};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a client may take to send all headers of a request.
const HEADERS_MAX_WAIT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most open connections of one listener, without the reserve.
const CONNECTIONS_MAX: usize = 4096;
/// Seats beyond that for clients with a key, if all others are busy.
const CONNECTIONS_RESERVED: usize = 256;
/// How long a connection of the reserve has to show a valid key.
const KEY_WAIT: Duration = Duration::from_secs(5);
/// How long a connection may be idle. HTTP/1.1 connections are closed earlier, by [`HEADERS_MAX_WAIT`].
const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long a client may take nothing of any response of its connection.
const STUCK_MAX: Duration = Duration::from_secs(60);
/// How long a connection may take to close in good order.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How often it is checked.
const IDLE_LOOK: Duration = Duration::from_secs(10);
/// A body that is longer than this may still be on its way when its request is refused.
const SHORT_BODY: u64 = 4 * 1024;
/// Most concurrent requests on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Bytes of a response that an HTTP/2 stream may buffer.
const STREAM_BUFFER_BYTES: usize = 128 * 1024;

/// The first step: accepts connections and passes each request to `Steps::serve`.
#[derive(Debug)]
pub struct Front {
    steps: Arc<Steps>,
    live: LiveConfig,
    tls: Option<Arc<Tls>>,
    access: Option<Arc<AccessLog>>,
}

/// Waits until a connection has been idle for too long, its client has taken nothing for too long, or it must make room.
async fn must_close(seat: &SeatGuard) {
    let quiet = async {
        while !seat.end_idle(IDLE_MAX) && seat.stuck() < STUCK_MAX {
            tokio::time::sleep(IDLE_LOOK).await;
        }
    };
    tokio::select! {
        () = quiet => {}
        () = seat.must_end() => {}
    }
}

impl Front {
    /// Creates the step with the steps that follow it.
    pub fn new(steps: Steps, tls: Option<Arc<Tls>>, access: Option<Arc<AccessLog>>) -> Arc<Self> {
        let live = Arc::clone(&steps.live);
        Arc::new(Self { steps: Arc::new(steps), live, tls, access })
    }

    /// Serves until `stop` is cancelled, then waits at most `drain` for open connections to end.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        role: ListenerRole,
        stop: CancellationToken,
        drain: Duration,
    ) {
        let connections = TaskTracker::new();
        let limits = SeatLimits { most: CONNECTIONS_MAX, reserve: CONNECTIONS_RESERVED, key_wait: KEY_WAIT };
        let seats = Seats::new(limits);
        let by_address = peers::ConnectionLimiter::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (front, stop, file) = (Arc::clone(&self), stop.clone(), self.live.load());
                    let trusted = file.trusted_proxies.iter().any(|range| range.contains(&peer.ip().to_canonical()));
                    let most = if trusted { u64::MAX } else { file.edge.connections_per_address };
                    // If the address has too many connections, this one is closed: one address must not take all
                    // seats.
                    let Some(counted) = by_address.enter(peer.ip().to_canonical(), most) else { continue };
                    // While it waits for a seat, others wait in the kernel's queue.
                    let seat = tokio::select! {
                        seat = seats.enter(peer.ip()) => Arc::new(seat),
                        () = stop.cancelled() => break,
                    };
                    connections.spawn(async move {
                        front.accepted(stream, peer, role, Arc::clone(&seat), stop).await;
                        drop((counted, seat));
                    });
                }
                Err(error) => {
                    // Most likely the process has no file descriptor left. Wait until other connections have ended.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(drain, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "connections were cut at the end of the drain");
        }
    }

    async fn accepted(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        role: ListenerRole,
        seat: Arc<SeatGuard>,
        stop: CancellationToken,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a client closed its connection at once");
            return;
        }
        match self.tls.clone() {
            None => self.connection(stream, (peer, role, false), seat, stop).await,
            Some(tls) => {
                let accepted = tokio::select! {
                    accepted = tls.accept(stream) => accepted,
                    () = stop.cancelled() => return,
                    () = seat.must_end() => return,
                };
                match accepted {
                    Ok(stream) => self.connection(stream, (peer, role, true), seat, stop).await,
                    Err(error) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                }
            }
        }
    }

    async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: Arc<Self>,
        stream: S,
        (peer, role, tls): (SocketAddr, ListenerRole, bool),
        seat: Arc<SeatGuard>,
        stop: CancellationToken,
    ) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_MAX_WAIT)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(check::HEADERS_MAX)
            .half_close(false);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buf_size(STREAM_BUFFER_BYTES)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let (of_seat, number) = (Arc::clone(&seat), self.steps.answers.waiting().connection());
        let service = hyper::service::service_fn(move |request| {
            Arc::clone(&self).request(request, (peer, role, tls, number), Arc::clone(&of_seat))
        });
        let connection = builder.serve_connection(TokioIo::new(io::StallGuard::new(stream)), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = must_close(&seat) => {
                tracing::debug!(%peer, "a connection was closed: it was idle, its client took nothing, or it made room");
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(CLOSE_MAX, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "a connection ended with an error");
        }
    }

    async fn request(
        self: Arc<Self>,
        request: Request<Incoming>,
        (peer, role, tls, connection): (SocketAddr, ListenerRole, bool, u64),
        seat: Arc<SeatGuard>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let (id, arrived) = (RequestId::new(), Instant::now());
        let Some(busy) = seat.busy() else {
            let made_room =
                Refusal::new(RefusalKind::Unavailable, "no_capacity", Blame::Platform, "the connection made room");
            return Ok(refuse(&made_room.retry_after(1), id));
        };
        let (parts, body) = request.into_parts();
        let (client, https) = client::client_of(peer.ip(), tls, &parts.headers, &self.live.load().trusted_proxies);
        let served = ServedFunction::default();
        // If the client leaves before the head of the response, this is dropped here and says so.
        let mut logged = self.access.as_ref().map(|log| {
            let method = parts.method.as_str().chars().take(32).collect();
            LoggedRequest::new(log, id, (method, Arc::clone(&served), arrived))
        });
        // The refusal of a function depends on the origin too, where CORS may decide.
        let is_of_function = parts.uri.path().starts_with("/f/");
        // hyper reads the rest of a short body by itself.
        let has_body = http_body::Body::size_hint(&body).upper().is_none_or(|most| most > SHORT_BODY);
        let is_head = parts.method == http::Method::HEAD;
        let is_http_1 = parts.version <= http::Version::HTTP_11;
        let for_openai = openai_path(parts.uri.path()).is_some();
        let for_jobs = has_job_errors(parts.uri.path());
        let served_here = Arc::clone(&served);
        let inbound = InboundRequest {
            id,
            arrived,
            connection,
            client,
            https,
            listener: role,
            served,
            parts,
            body,
            collected: None,
        };
        let origin = self.origin(&inbound);
        let mut refusal = None;
        let mut response =
            match self.steps.serve(inbound, origin.as_ref().and_then(cors::Origin::asks), seat.seat()).await {
                Ok(mut response) => {
                    stamp(&mut response, id);
                    response
                }
                Err(refused) => {
                    let cause = refused.internal.as_deref();
                    match (refused.kind, refused.blame) {
                        (RefusalKind::Internal, _) => {
                            tracing::error!(request = %id, %peer, %refused, cause, "the server failed");
                        }
                        // A server under load refuses many requests. As errors, they would fill the log.
                        (_, Blame::Platform) => tracing::info!(request = %id, %peer, %refused, cause, "refused"),
                        _ => tracing::debug!(request = %id, %peer, %refused, cause, "refused"),
                    }
                    refusal = Some((refused.code, refused.blame));
                    let mut refused = match (for_openai, for_jobs) {
                        (true, _) => refuse_openai(&refused, id),
                        (_, true) => refuse_job(&refused, id),
                        _ => refuse(&refused, id),
                    };
                    if is_head {
                        // Over HTTP/2 nothing else removes the body.
                        refused = without_body(refused);
                    }
                    if is_of_function {
                        cors::vary(refused.headers_mut());
                    }
                    if has_body && is_http_1 {
                        // Its body may not have been read, so no other request can follow on this connection.
                        refused.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    refused
                }
            };
        if let Some(origin) = origin.as_ref().and_then(|origin| origin.reads(refusal.is_some())) {
            cors::mark(response.headers_mut(), origin);
        }
        if let Some(mut logged) = logged.take() {
            logged.answered(response.status().as_u16(), refusal);
            response = response.map(|body| logged.watch(body));
        }
        let tenant = served_here.get().map(|(tenant, _)| tenant.clone());
        let recipient = Recipient::new(connection, client, tenant);
        let (waiting, limits) = (self.steps.answers.waiting(), self.steps.waiting_limits());
        Ok(response.map(|body| counted_body::count_parts(held_body::keep_busy(body, busy), waiting, recipient, limits)))
    }

    /// Returns the request's origin and what the called function allows it. None if the request has no `Origin` header
    /// or names no function by path or host.
    fn origin(&self, inbound: &InboundRequest) -> Option<cors::Origin> {
        let asking = inbound.parts.headers.get(http::header::ORIGIN)?;
        let snapshot = self.steps.auth.snapshot();
        let listed =
            |version: &Version| cors::allowed(&inbound.parts.headers, &version.manifest().http.cors_origins).is_some();
        let (listed, hidden) = match route::cors_policy(inbound, &snapshot, &self.live.load())? {
            CorsPolicy::Public(version) => (listed(&version), false),
            CorsPolicy::Hidden(version) => (version.is_some_and(|version| listed(&version)), true),
        };
        Some(cors::Origin { asking: asking.clone(), listed, hidden })
    }
}
