//! The worker's side of outbound HTTP: a guest's call goes to the front door over HTTP/2, and its answer comes back. Whether it
//! may is decided there.

use crate::worker::log::RequestLog;
use bytes::Bytes;
use gannet_base::hop::outbound::{HEAD_BYTES_MAX, OutboundError, STREAMS_MAX, WINDOW};
use gannet_base::hop::{LogStream, VersionKey, header};
use gannet_base::names::RequestId;
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
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// From the answer's head to its first byte, and between parts, as far as the guest does not say less.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The connection to the front door, once there is one.
#[derive(Debug)]
pub(crate) struct Egress {
    sender: OnceLock<SendRequest<WasiBody>>,
    /// The other side takes so many at once; more would wait in a queue without a bound.
    places: Semaphore,
}

impl Default for Egress {
    fn default() -> Self {
        Self { sender: OnceLock::new(), places: Semaphore::new(STREAMS_MAX as usize) }
    }
}

impl Egress {
    /// Takes the socket that the front door has sent.
    pub(crate) async fn open(&self, socket: OwnedFd) {
        let stream = std::os::unix::net::UnixStream::from(socket);
        let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
        let handshake = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream));
        match handshake.await {
            Ok((sender, connection)) => {
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "the outbound connection ended");
                    }
                });
                // It is sent once.
                let _ = self.sender.set(sender);
            }
            Err(error) => tracing::warn!(%error, "no outbound connection"),
        }
    }
}

/// What a guest's calls are made with.
#[derive(Clone)]
pub(crate) struct Calls {
    pub(crate) egress: Arc<Egress>,
    pub(crate) version: VersionKey,
    pub(crate) request: RequestId,
    pub(crate) log: Arc<RequestLog>,
    /// Set when the guest is gone: a body that ends then was cut.
    pub(crate) cut: Arc<AtomicBool>,
}

/// Sets the flag when the guest goes. It must be dropped before what the guest was sending.
pub(crate) struct CutOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn whole(response: Response<Incoming>) -> Response<WasiBody> {
    response.map(|body| body.map_err(|_| Error::ConnectionTerminated).boxed_unsync())
}

impl Calls {
    /// Makes a call.
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
        let mut sender = self.egress.sender.get().cloned().ok_or_else(|| self.denied(&target))?;
        let _place = self.egress.places.acquire().await.map_err(|_| Error::InternalError(None))?;
        let first = options.and_then(|options| options.first_byte_timeout).unwrap_or(IDLE_MAX);
        let cut = Arc::clone(&self.cut);
        let mut request = request.map(|body| Cuttable { body, cut }.boxed_unsync());
        let headers = request.headers_mut();
        headers.remove(http::header::HOST);
        headers.insert(header::VERSION, HeaderValue::from(self.version));
        for (name, text) in
            [(header::REQUEST, self.request.to_string()), (header::DEADLINE, first.as_millis().to_string())]
        {
            headers.insert(name, HeaderValue::from_str(&text).map_err(|_| Error::InternalError(None))?);
        }
        let mut response = sender.send_request(request).await.map_err(|error| {
            tracing::debug!(%error, "an outbound call broke off");
            Error::ConnectionTerminated
        })?;
        match response.headers_mut().remove(header::FAULT) {
            None => Ok(whole(response)),
            Some(value) => Err(self.refused(&value, &target)),
        }
    }

    fn denied(&self, target: &str) -> Error {
        let hint = format!("a request to {target} was refused: [http] allowed_outbound_hosts does not list it");
        self.log.lines(LogStream::Stderr, &hint);
        Error::HttpRequestDenied
    }

    fn refused(&self, value: &HeaderValue, target: &str) -> Error {
        let refusal = value.to_str().ok().and_then(|text| serde_json::from_str(text).ok());
        let error = match refusal {
            Some(OutboundError::NotListed) => return self.denied(target),
            Some(OutboundError::Limit { name, limit }) => {
                self.log.lines(LogStream::Stderr, &format!("a request to {target} was refused: {name} = {limit}"));
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
        self.log.lines(LogStream::Stderr, &format!("a request to {target} failed: {error:?}"));
        error
    }
}

/// A body that is broken, not whole, when the guest that was sending it is gone.
struct Cuttable {
    body: WasiBody,
    cut: Arc<AtomicBool>,
}

impl Body for Cuttable {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(None) if self.cut.load(Ordering::Acquire) => {
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
