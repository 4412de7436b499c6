//! One outbound call, from the worker's request to the head of the response.

use crate::egress::WorkerEgress;
use crate::egress::address::may_reach;
use crate::egress::body::{CallAllowance, CountedBody, EgressBudget};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::headers::strip_hop_by_hop;
use gannet_base::hop::header;
use gannet_base::hop::outbound::OutboundError;
use gannet_base::names::RequestId;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::convert::Infallible;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// How long a connection attempt has before the next address is tried beside it.
const CONNECT_STAGGER: Duration = Duration::from_millis(250);

/// Addresses of a host that are tried, and how many of them at once.
const ADDRESSES_MAX: usize = 8;
const ATTEMPTS_MAX: usize = 3;

/// Body of the response that the worker gets.
type OutboundBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Scheme, host and port of a call.
struct CallTarget {
    https: bool,
    host: String,
    port: u16,
}

/// Serves one call of a worker. A refusal is a response with the error in the header [`header::FAULT`].
pub(super) async fn answer(
    worker: Arc<WorkerEgress>,
    request: Request<Incoming>,
) -> Result<Response<OutboundBody>, Infallible> {
    Ok(match call(&worker, request).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(tenant = %worker.tenant, ?refusal, "an outbound call was refused");
            let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
            let mut response = Response::new(body);
            if let Some(value) = serde_json::to_string(&refusal).ok().and_then(|text| HeaderValue::from_str(&text).ok())
            {
                response.headers_mut().insert(header::FAULT, value);
            }
            response
        }
    })
}

fn take<T>(headers: &mut HeaderMap, name: &HeaderName, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    headers.remove(name)?.to_str().ok().and_then(parse)
}

fn destination(uri: &Uri) -> Option<CallTarget> {
    let https = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?;
    // An authority with a user name or an invalid port is ambiguous.
    let bare = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, rest)| rest);
    if authority.as_str().contains('@') || (bare.contains(':') && authority.port_u16().is_none()) {
        return None;
    }
    let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
    Some(CallTarget { https, host: authority.host().to_owned(), port })
}

async fn call(
    worker: &Arc<WorkerEgress>,
    mut request: Request<Incoming>,
) -> Result<Response<OutboundBody>, OutboundError> {
    let headers = request.headers_mut();
    let version = take(headers, &header::VERSION, |text| text.parse().ok()).ok_or(OutboundError::NotListed)?;
    let id = take(headers, &header::REQUEST, RequestId::parse).ok_or(OutboundError::NotListed)?;
    let asked_ms: Option<u64> = take(headers, &header::DEADLINE, |text| text.parse().ok());
    let connect_ms: Option<u64> = take(headers, &header::CONNECT, |text| text.parse().ok());
    let counter = worker.counter(id).ok_or(OutboundError::NotListed)?;
    let to = destination(request.uri()).ok_or(OutboundError::Protocol)?;
    if !worker.allows(version, to.https, &to.host, to.port)
        || request.method() == Method::CONNECT
        || request.method() == Method::TRACE
    {
        return Err(OutboundError::NotListed);
    }
    let settings = worker.egress.live.load().egress.clone();
    let first_ms = asked_ms.unwrap_or(u64::MAX).min(settings.first_byte_timeout_ms);
    let asked_at = Instant::now();
    let allowance = enter(worker, asked_at + Duration::from_millis(first_ms)).await?;
    // While it waited, its request may have ended.
    if worker.counter(id).is_none() {
        return Err(OutboundError::NotListed);
    }
    let first_max = Duration::from_millis(first_ms).saturating_sub(asked_at.elapsed());
    let connect_ms = connect_ms.unwrap_or(u64::MAX).min(settings.connect_timeout_ms);
    let connect_by = Instant::now() + Duration::from_millis(connect_ms);
    let stream = timeout_at(connect_by, connect(worker, &to)).await.map_err(|_| OutboundError::Unreachable)??;
    // From here on the call may have had an effect outside, so the guest's request is not retried.
    counter.add_call();
    let by = Instant::now() + first_max;
    let (parts, body) = rebuild(request, &to)?.into_parts();
    allowance.budget.count(&counter, parts.uri.to_string().len() + head_bytes(&parts.headers));
    let request =
        Request::from_parts(parts, CountedBody::request(body, Arc::clone(&counter), allowance.budget.clone()));
    let response = if to.https {
        let name = ServerName::try_from(to.host.trim_matches(['[', ']']).to_owned()).map_err(|_| OutboundError::Tls)?;
        let tls = timeout_at(connect_by, worker.egress.connector.connect(name, stream)).await;
        let tls = tls.map_err(|_| OutboundError::Unreachable)?.map_err(|error| {
            tracing::debug!(host = to.host, %error, "the TLS handshake of an outbound call failed");
            OutboundError::Tls
        })?;
        timeout_at(by, send(tls, request)).await
    } else {
        timeout_at(by, send(stream, request)).await
    };
    let response = response.map_err(|_| OutboundError::Timeout)??;
    relay(response, &counter, settings.response_mib << 20, allowance)
}

/// Takes a permit of the tenant's concurrent calls, if its daily quota is not used up. Waits for one until `by`: the
/// worker has a bound on the calls that wait.
async fn enter(worker: &WorkerEgress, by: Instant) -> Result<CallAllowance, OutboundError> {
    let snapshot = worker.egress.registry.snapshot();
    let tenant = snapshot.tenants.get(&worker.tenant).ok_or(OutboundError::Unreachable)?;
    let budget = EgressBudget { account: Arc::clone(&tenant.account), mib: tenant.limits.egress_mib_per_day };
    if budget.is_spent() {
        return Err(OutboundError::limit("egress_mib_per_day", budget.mib));
    }
    let permit = timeout_at(by, worker.egress.permits(&worker.tenant).acquire_owned()).await;
    let permit = permit.ok().and_then(Result::ok).ok_or_else(|| {
        OutboundError::limit("concurrent calls of the tenant", worker.egress.live.load().egress.concurrency)
    })?;
    // While it waited, others may have used up the quota.
    if budget.is_spent() {
        return Err(OutboundError::limit("egress_mib_per_day", budget.mib));
    }
    Ok(CallAllowance { permit, budget })
}

/// Resolves a name on a blocking thread, which may hang as long as the resolver does. A worker, and all workers
/// together, may only use a few of these threads, because everything that waits for a disk shares them.
async fn resolve(worker: &WorkerEgress, host: String, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
    // The caller's timeout for connecting ends the wait.
    let acquire = |permits: &Arc<Semaphore>| Arc::clone(permits).acquire_owned();
    let (own, all) = (acquire(&worker.resolving).await, acquire(&worker.egress.resolving).await);
    let held = (own.map_err(|_| OutboundError::Dns)?, all.map_err(|_| OutboundError::Dns)?);
    let resolving = tokio::task::spawn_blocking(move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(held);
        found
    });
    resolving.await.ok().and_then(Result::ok).ok_or(OutboundError::Dns)
}

/// Connects to the first address that may be reached and accepts the connection.
async fn connect(worker: &WorkerEgress, to: &CallTarget) -> Result<TcpStream, OutboundError> {
    let host = to.host.trim_matches(['[', ']']);
    let found = resolve(worker, host.to_owned(), to.port).await?;
    if found.is_empty() {
        return Err(OutboundError::Dns);
    }
    let opened = worker.egress.live.load().egress.allow_ranges.clone();
    let is_opened = |address: &SocketAddr| opened.iter().any(|range| range.contains(&address.ip().to_canonical()));
    // A public address of this machine may lead to services that only a firewall protects. Only the machine's own
    // addresses can be bound.
    let is_own = |address: &SocketAddr| UdpSocket::bind((address.ip(), 0)).is_ok();
    let reachable: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| may_reach(address.ip(), &opened) && (is_opened(address) || !is_own(address)))
        .collect();

    if reachable.is_empty() {
        return Err(OutboundError::Prohibited);
    }
    let mut ordered = alternating(reachable);
    ordered.truncate(ADDRESSES_MAX);
    let stream = connect_to_any(ordered).await.ok_or(OutboundError::Unreachable)?;
    // An error only costs speed.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Orders addresses so that those of both families alternate, each family in the resolver's order (RFC 8305, 4).
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return ordered;
        }
        ordered.extend(pair.0.into_iter().chain(pair.1));
    }
}

/// Connects to the address that answers first. The next one is tried when one has failed, or has not answered for a
/// moment (RFC 8305, 5).
async fn connect_to_any(addresses: Vec<SocketAddr>) -> Option<TcpStream> {
    let mut left = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    trying.push(TcpStream::connect(left.next()?));
    loop {
        tokio::select! {
            Some(connected) = trying.next() => match (connected, left.next()) {
                (Ok(stream), _) => return Some(stream),
                (Err(_), Some(next)) => trying.push(TcpStream::connect(next)),
                (Err(_), None) if trying.is_empty() => return None,
                (Err(_), None) => {}
            },
            () = tokio::time::sleep(CONNECT_STAGGER), if left.len() > 0 && trying.len() < ATTEMPTS_MAX => {
                trying.extend(left.next().map(TcpStream::connect));
            }
        }
    }
}

/// Rebuilds the request for the other side: without hop-by-hop headers, without `x-gannet-` headers, and with the host
/// that was checked.
fn rebuild(mut request: Request<Incoming>, to: &CallTarget) -> Result<Request<Incoming>, OutboundError> {
    let path = request.uri().path_and_query().cloned().ok_or(OutboundError::Protocol)?;
    let length = request.headers().get(CONTENT_LENGTH).cloned();
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    ours.into_iter().for_each(|name| drop(headers.remove(name)));
    headers.remove(EXPECT);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length);
    }
    let usual = if to.https { 443 } else { 80 };
    let host = if to.port == usual { to.host.clone() } else { format!("{}:{}", to.host, to.port) };
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(|_| OutboundError::Protocol)?);
    if !headers.contains_key(ACCEPT_ENCODING) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    Ok(request)
}

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

async fn send<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<CountedBody>,
) -> Result<Response<Incoming>, OutboundError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(gannet_base::hop::outbound::HEAD_BYTES_MAX as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| OutboundError::Protocol)?;
    // The task ends with the response's body, or when that is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an outbound connection ended");
        }
    });
    sender.send_request(request).await.map_err(|error| {
        tracing::debug!(%error, "no response to an outbound call");
        if error.is_parse() { OutboundError::Protocol } else { OutboundError::Unreachable }
    })
}

/// Rebuilds the response for the worker. `limit` is the size limit of its body in bytes.
fn relay(
    response: Response<Incoming>,
    counter: &Arc<OutboundUse>,
    limit: u64,
    allowance: CallAllowance,
) -> Result<Response<OutboundBody>, OutboundError> {
    if response.body().size_hint().lower() > limit {
        return Err(OutboundError::TooLarge);
    }
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    let ours: Vec<HeaderName> =
        parts.headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    ours.into_iter().for_each(|name| drop(parts.headers.remove(name)));
    allowance.budget.count(counter, head_bytes(&parts.headers));
    parts.version = Version::HTTP_2;
    let body = CountedBody::answer(body, Arc::clone(counter), limit, allowance);
    Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_alternate() {
        let addresses = |text: &str| text.split(' ').map(|at| at.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let ordered = alternating(addresses("[1::1]:1 [1::2]:1 [1::3]:1 1.0.0.1:1 1.0.0.2:1"));
        assert_eq!(ordered, addresses("[1::1]:1 1.0.0.1:1 [1::2]:1 1.0.0.2:1 [1::3]:1"));
        assert_eq!(alternating(Vec::new()), []);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_keep_the_others_from_being_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let refused = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap()
        };
        // Of the ranges for documentation: packets to it are lost, or it is unreachable.
        let silent: SocketAddr = "192.0.2.1:9".parse().unwrap();
        for addresses in [vec![refused, good], vec![silent, good], vec![silent, refused, good]] {
            assert!(connect_to_any(addresses).await.is_some());
        }
        assert!(connect_to_any(vec![refused]).await.is_none() && connect_to_any(Vec::new()).await.is_none());
    }

    #[test]
    fn a_destination_can_be_read_in_one_way_only() {
        let to = |text: &str| destination(&text.parse().unwrap()).map(|to| (to.https, to.host, to.port));
        assert_eq!(to("https://api.example.com/x"), Some((true, "api.example.com".into(), 443)));
        assert_eq!(to("http://[::1]:8080/x"), Some((false, "[::1]".into(), 8080)));
        for bad in ["https://user@api.example.com/", "ftp://api.example.com/", "/x"] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }
}
