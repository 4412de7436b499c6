//! Step 1: accept, caps, ids, and the edge of HTTP.
//!
//! ```text
//!  accept ─▶ HTTP/1.1 or HTTP/2 ─▶ id, checks ─▶ auth ─▶ … ─▶ response
//!             │ header timeout, header caps          └ refusal ─▶ respond
//!             └ writes that stall are cut
//! ```
//!
//! A request is refused here when it could be read in two ways (two lengths, a length beside
//! chunks), when it wants another protocol, or when it is too large or too slow.

mod io;

use crate::auth::Auth;
use crate::inbound::{FrontError, Inbound};
use crate::names::RequestId;
use crate::respond::{Refused, ResponseBody, refuse, stamp};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// All headers of a request must be there within this.
const HEADERS_MAX_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Number of headers.
const HEADERS_MAX: usize = 128;
/// Connections at once.
const CONNECTIONS_MAX: usize = 4096;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// The step.
#[derive(Debug)]
pub struct Front {
    next: Auth,
    /// Whether only loopback host names are answered: with `--dev` the key is known to everybody,
    /// and a web page must not be able to reach it by a name of its own.
    loopback_only: bool,
}

impl Front {
    /// The step, with the next one inside it.
    pub fn new(next: Auth, loopback_only: bool) -> Arc<Self> {
        Arc::new(Self { next, loopback_only })
    }

    /// Serves until `stop`, then lets what runs end, for at most `drain`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken, drain: Duration) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // A connection over the limit waits in the kernel's queue until another ends.
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                () = stop.cancelled() => break,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (front, stop) = (Arc::clone(&self), stop.clone());
                    connections.spawn(async move {
                        front.connection(stream, peer, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
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

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, peer: SocketAddr, stop: CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone at once");
            return;
        }
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_MAX_WAIT)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .half_close(false);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let service = hyper::service::service_fn(move |request| Arc::clone(&self).request(request, peer));
        let connection = builder.serve_connection(TokioIo::new(io::Stalling::new(stream)), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    }

    async fn request(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let id = RequestId::new();
        let (parts, body) = request.into_parts();
        let inbound = Inbound { id, arrived: Instant::now(), peer, parts, body };
        let response = match self.handle(inbound).await {
            Ok(mut response) => {
                stamp(&mut response, id);
                response
            }
            Err(refused) => {
                tracing::debug!(request = %id, %peer, %refused, "refused");
                refuse(&refused, id)
            }
        };
        Ok(response)
    }

    async fn handle(&self, mut inbound: Inbound) -> Result<Response<ResponseBody>, Refused> {
        self.check(&inbound.parts)?;
        let (caller, snapshot) = self.next.caller(&mut inbound.parts.headers)?;
        self.next.next().call(inbound, caller, snapshot).await
    }

    fn check(&self, parts: &Parts) -> Result<(), FrontError> {
        let headers = &parts.headers;
        if parts.method == Method::CONNECT || headers.contains_key(UPGRADE) {
            return Err(FrontError::UpgradeUnsupported);
        }
        if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
            return Err(FrontError::Malformed("the request has more than one content-length".into()));
        }
        if headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING) {
            return Err(FrontError::Malformed("the request has both content-length and transfer-encoding".into()));
        }
        if headers.get_all(HOST).iter().count() > 1 {
            return Err(FrontError::Malformed("the request has more than one host".into()));
        }
        if self.loopback_only {
            let host =
                parts.uri.authority().map(|authority| authority.as_str()).or_else(|| headers.get(HOST)?.to_str().ok());
            let host = host.unwrap_or_default();
            if !is_loopback_host(host) {
                return Err(FrontError::BadHost { host: host.chars().take(128).collect() });
            }
        }
        Ok(())
    }
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for good in ["localhost", "localhost:7070", "127.0.0.1:7070", "[::1]:7070", "127.1.2.3"] {
            assert!(is_loopback_host(good), "{good}");
        }
        for bad in ["", "example.org", "localhost.example.org", "127.0.0.1.nip.io", "10.0.0.1", "[fe80::1]"] {
            assert!(!is_loopback_host(bad), "{bad}");
        }
    }
}
