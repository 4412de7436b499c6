//! The worker's side of outbound HTTP: sends a guest's request to the front door over HTTP/2 and returns the response.
//!
//! The worker has no network and decides nothing: the front door checks each request and makes it. A refusal is written
//! to the function's log, with the line of the manifest that would allow the request. Calls of other functions of the
//! tenant go the same way; the front door serves them itself.

use crate::guest::log::RequestLog;
use bytes::Bytes;
use gannet_base::headers::ERROR;
use gannet_base::hop::outbound::{
    HEAD_BYTES_MAX, OutboundError, SIBLING_STREAMS_MAX, SOCKET_STREAMS, SOCKET_WINDOW, STREAMS_MAX,
};
use gannet_base::hop::platform::STREAMS_MAX as PLATFORM_STREAMS_MAX;
use gannet_base::hop::{LogStream, VersionKey, header};
use gannet_base::names::RequestId;
use gannet_base::siblings;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// Timeout for the first byte of a response, and between two parts of its body, unless the guest sets another. The front
/// door limits all of them.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The same between two parts of the body of a sibling's response, which has limits of its own.
const SIBLING_IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The connection to the front door. It is open once the front door has sent the socket.
#[derive(Debug)]
pub(crate) struct OutboundConnection {
    pub(super) sender: OnceLock<SendRequest<WasiBody>>,
    /// One permit for each stream that the front door accepts at once. Without permits, further requests would wait in
    /// hyper's unbounded queue.
    stream_permits: Arc<Semaphore>,
    /// The same for calls of siblings. Nobody waits for one, because callers hold theirs while their calls need more.
    sibling_permits: Arc<Semaphore>,
    /// The same for calls of the platform, so that slow servers elsewhere do not hold them up.
    pub(super) platform_permits: Semaphore,
}

impl Default for OutboundConnection {
    fn default() -> Self {
        let permits = |streams| Semaphore::new(streams as usize);
        Self {
            sender: OnceLock::new(),
            stream_permits: Arc::new(permits(STREAMS_MAX)),
            sibling_permits: Arc::new(permits(SIBLING_STREAMS_MAX)),
            platform_permits: permits(PLATFORM_STREAMS_MAX),
        }
    }
}

impl OutboundConnection {
    /// Connects over the socket that the front door has sent.
    pub(crate) async fn open(&self, socket: OwnedFd) {
        let stream = std::os::unix::net::UnixStream::from(socket);
        let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
        let handshake = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(SOCKET_WINDOW)
            .initial_connection_window_size(SOCKET_WINDOW * SOCKET_STREAMS)
            .max_header_list_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream));
        match handshake.await {
            Ok((sender, connection)) => {
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "the outbound connection ended");
                    }
                });
                // The front door sends one socket, so it is not set yet.
                let _ = self.sender.set(sender);
            }
            Err(error) => tracing::warn!(%error, "no outbound connection"),
        }
    }
}

/// Sends the outbound requests of one inbound request.
#[derive(Clone)]
pub(crate) struct OutboundClient {
    pub(crate) connection: Arc<OutboundConnection>,
    pub(crate) version: VersionKey,
    pub(crate) request: RequestId,
    pub(crate) log: Arc<RequestLog>,
    /// Set when the guest is dropped. A request body that ends after that is incomplete.
    pub(crate) guest_dropped: Arc<AtomicBool>,
}

/// Sets its flag when it is dropped. The guest drops it before the bodies that it is sending.
pub(super) struct DropSignal(pub(super) Arc<AtomicBool>);

impl Drop for DropSignal {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn with_wasi_body(
    response: Response<Incoming>,
    between_bytes_max: Duration,
    permit: OwnedSemaphorePermit,
) -> Response<WasiBody> {
    response.map(|body| TimedBody { body, longest: between_bytes_max, timeout: None, _permit: permit }.boxed_unsync())
}

/// The body of a response. It fails if the time between two parts is too long for the guest.
struct TimedBody {
    body: Incoming,
    longest: Duration,
    /// Runs while the guest waits for a part.
    timeout: Option<Pin<Box<Sleep>>>,
    /// The stream is open as long as the body is.
    _permit: OwnedSemaphorePermit,
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.timeout = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| Error::ConnectionTerminated)));
        }
        let longest = self.longest;
        let timeout = self.timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        ready!(timeout.as_mut().poll(context));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl OutboundClient {
    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(
        self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Response<WasiBody>, Error> {
        let target = format!(
            "{}://{}",
            request.uri().scheme_str().unwrap_or("http"),
            request.uri().authority().map_or("", |authority| authority.as_str())
        );
        let mut sender = self.connection.sender.get().cloned().ok_or_else(|| self.denied(&target))?;
        let is_sibling = request.uri().host().is_some_and(|host| siblings::named(host).is_some());
        let permit = self.stream_permit(is_sibling, &target).await?;
        let first_byte_max = options.and_then(|options| options.first_byte_timeout);
        let first_byte_max = if is_sibling { first_byte_max } else { first_byte_max.or(Some(IDLE_MAX)) };
        let connect_max = options.and_then(|options| options.connect_timeout);
        let idle_max = if is_sibling { SIBLING_IDLE_MAX } else { IDLE_MAX };
        let between_bytes_max = options.and_then(|options| options.between_bytes_timeout).unwrap_or(idle_max);
        let guest_dropped = Arc::clone(&self.guest_dropped);
        let mut request = request.map(|body| OutboundBody { body, guest_dropped }.boxed_unsync());
        let headers = request.headers_mut();
        headers.remove(http::header::HOST);
        headers.remove(header::SERVICE);
        headers.insert(header::VERSION, HeaderValue::from(self.version));
        let id = HeaderValue::from_str(&self.request.to_string()).map_err(|_| Error::InternalError(None))?;
        headers.insert(header::REQUEST, id);
        for (name, longest) in [(header::DEADLINE, first_byte_max), (header::CONNECT, connect_max)] {
            headers.remove(&name);
            if let Some(longest) = longest {
                let ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
                headers.insert(name, HeaderValue::from(ms));
            }
        }
        let mut response = sender.send_request(request).await.map_err(|error| {
            tracing::debug!(%error, "an outbound call broke off");
            Error::ConnectionTerminated
        })?;
        match response.headers_mut().remove(header::FAULT) {
            None => {
                // Only of a sibling: the front door removes it from what other servers send.
                if let Some(code) = response.headers().get(ERROR).and_then(|code| code.to_str().ok()) {
                    let text = format!("a request to {target} was not served: {code}");
                    self.log.write_lines(LogStream::Stderr, &text);
                }
                Ok(with_wasi_body(response, between_bytes_max, permit))
            }
            Some(value) => Err(self.failed(&value, &target)),
        }
    }

    /// Takes a permit for the stream of a request.
    async fn stream_permit(&self, is_sibling: bool, target: &str) -> Result<OwnedSemaphorePermit, Error> {
        if !is_sibling {
            let permit = Arc::clone(&self.connection.stream_permits).acquire_owned().await;
            return permit.map_err(|_| Error::InternalError(None));
        }
        Arc::clone(&self.connection.sibling_permits).try_acquire_owned().map_err(|_| {
            let text = format!(
                "a request to {target} was refused: {SIBLING_STREAMS_MAX} calls of functions of the tenant are under way"
            );
            self.log.write_lines(LogStream::Stderr, &text);
            Error::ConnectionLimitReached
        })
    }

    /// Logs that the manifest does not allow the host, and returns the guest's error.
    fn denied(&self, target: &str) -> Error {
        let hint = format!("a request to {target} was refused: [http] allowed_outbound_hosts does not list it");
        self.log.write_lines(LogStream::Stderr, &hint);
        Error::HttpRequestDenied
    }

    /// Logs the front door's error and translates it into the guest's.
    fn failed(&self, value: &HeaderValue, target: &str) -> Error {
        let reported = value.to_str().ok().and_then(|text| serde_json::from_str(text).ok());
        let error = match reported {
            Some(OutboundError::NotListed) => return self.denied(target),
            Some(OutboundError::Limit { name, limit }) => {
                self.log
                    .write_lines(LogStream::Stderr, &format!("a request to {target} was refused: {name} = {limit}"));
                return Error::ConnectionLimitReached;
            }
            Some(OutboundError::Dns) => Error::DnsError { rcode: None, info_code: None },
            Some(OutboundError::Prohibited) => Error::DestinationIpProhibited,
            Some(OutboundError::Unreachable) => Error::ConnectionRefused,
            Some(OutboundError::Tls) => Error::TlsCertificateError,
            Some(OutboundError::Timeout) => Error::HttpResponseTimeout,
            Some(OutboundError::TooLarge) => Error::HttpResponseBodySize(None),
            Some(OutboundError::Protocol) => Error::HttpProtocolError,
            None => Error::InternalError(None),
        };
        self.log.write_lines(LogStream::Stderr, &format!("a request to {target} failed: {error:?}"));
        error
    }
}

/// The body of an outbound request. If its guest is dropped it fails instead of ending, so that an
/// incomplete body never looks complete.
struct OutboundBody {
    body: WasiBody,
    guest_dropped: Arc<AtomicBool>,
}

impl Body for OutboundBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(None) if self.guest_dropped.load(Ordering::Acquire) => {
                Poll::Ready(Some(Err(Error::ConnectionTerminated)))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
