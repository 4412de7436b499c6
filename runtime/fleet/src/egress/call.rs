//! One outbound call, from the worker's request to the head of the response.

use crate::egress::WorkerEgress;
use crate::egress::body::{CallAllowance, CountedBody, EgressBudget};
use crate::egress::connect::may_connect;
use crate::egress::connection::{CallGuard, Connection, Protocol, Route, SendFailure};
use crate::egress::idle::IdleKey;
use crate::egress::siblings::{self, SiblingCall};
use crate::egress::target::{CallTarget, destination};
use bytes::Bytes;
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::headers::{announced_length, strip_hop_by_hop};
use gannet_base::hop::header;
use gannet_base::hop::heads::may_have_length;
use gannet_base::hop::outbound::OutboundError;
use gannet_base::names::RequestId;
use gannet_base::trailers::{self, TrailerHeaders};
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Body of the response that the worker gets.
pub(super) type OutboundBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

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
    if let Some(function) = gannet_base::siblings::named(&to.host) {
        let caller = worker.request(id).ok_or(OutboundError::NotListed)?;
        // The first workers may start before the rest of the front door.
        let serving = worker.egress.siblings.get().ok_or(OutboundError::Unreachable)?;
        let (tenant, is_plain) = (worker.tenant.clone(), !to.https && to.port == 80);
        let (parts, body) = request.into_parts();
        let call = SiblingCall { tenant, function, caller, is_plain, parts, body };
        let response = siblings::answer(&**serving, call, asked_ms).await?;
        return Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()));
    }
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
    let connect_max = Duration::from_millis(connect_ms.unwrap_or(u64::MAX).min(settings.connect_timeout_ms));
    let (parts, body) = request.into_parts();
    let plain = if is_grpc(&parts.headers) { Protocol::Http2 } else { Protocol::Http1 };
    let key = IdleKey { target: to, plain };
    let again = (parts.method.is_idempotent() && body.is_end_stream()).then(|| {
        // An empty body can be sent twice.
        CountedBody::empty(Arc::clone(&counter), allowance.budget.clone())
    });
    let body = CountedBody::request(body, Arc::clone(&counter), allowance.budget.clone());
    let mut outgoing =
        Outgoing { worker, key: &key, parts: &parts, counter: &counter, budget: &allowance.budget, is_counted: false };
    let began = Instant::now();
    let (response, guard) = match outgoing.reused() {
        Some(connection) => match outgoing.send(connection, body, began + first_max).await {
            // The other side may close a connection that waits at any time. Then a new one is tried, once.
            Err(SendFailure { error: OutboundError::Unreachable, unsent }) => {
                let body = unsent.map(|request| request.into_body()).or(again).ok_or(OutboundError::Unreachable)?;
                outgoing.send_over_new(body, connect_max, first_max.saturating_sub(began.elapsed())).await?
            }
            sent => sent.map_err(|failed| failed.error)?,
        },
        None => outgoing.send_over_new(body, connect_max, first_max).await?,
    };
    relay(response, &counter, settings.response_mib << 20, CallAllowance { guard: Some(Box::new(guard)), ..allowance })
}

/// gRPC, but not its form for browsers, which HTTP/1.1 can carry.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let rest = kind.and_then(|kind| kind.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// A call on its way out.
struct Outgoing<'a> {
    worker: &'a Arc<WorkerEgress>,
    key: &'a IdleKey,
    /// The head that the guest sent.
    parts: &'a Parts,
    counter: &'a Arc<OutboundUse>,
    budget: &'a EgressBudget,
    /// Whether it was counted.
    is_counted: bool,
}

impl Outgoing<'_> {
    /// Returns a connection that an earlier call of the tenant left.
    fn reused(&self) -> Option<Connection> {
        let egress = &self.worker.egress;
        let opened = egress.live.load().egress.allow_ranges.clone();
        egress.idle.take(&self.worker.tenant, self.key, |peer| may_connect(peer, &opened))
    }

    async fn send_over_new(
        &mut self,
        body: CountedBody,
        connect_max: Duration,
        first_max: Duration,
    ) -> Result<(Response<Incoming>, CallGuard), OutboundError> {
        let connect_by = Instant::now() + connect_max;
        let egress = &self.worker.egress;
        let route = Route {
            lookups: &self.worker.lookups,
            opened: &egress.live.load().egress.allow_ranges.clone(),
            tls: &egress.connector,
        };
        let connection = Connection::open(&route, &self.key.target, self.key.plain, connect_by).await?;
        self.send(connection, body, Instant::now() + first_max).await.map_err(|failed| failed.error)
    }

    async fn send(
        &mut self,
        mut connection: Connection,
        body: CountedBody,
        by: Instant,
    ) -> Result<(Response<Incoming>, CallGuard), SendFailure> {
        let refused = |error| SendFailure { error, unsent: None };
        let parts = rebuild(self.parts, &self.key.target, connection.protocol()).map_err(refused)?;
        // From here on the call may have had an effect outside, so the guest's request is not retried.
        if !std::mem::replace(&mut self.is_counted, true) {
            self.counter.add_call();
            self.budget.count(self.counter, parts.uri.to_string().len() + trailers::bytes(&parts.headers));
        }
        let guard = connection.begin_call();
        let (idle, tenant) = (&self.worker.egress.idle, &self.worker.tenant);
        let sent = timeout_at(by, connection.send(Request::from_parts(parts, body))).await;
        let response = sent.unwrap_or_else(|_| Err(refused(OutboundError::Timeout))).inspect_err(|_| {
            // The next call tries another connection.
            idle.forget(tenant, connection.made);
        })?;
        idle.keep_when_done(tenant, self.key.clone(), connection);
        Ok((response, guard))
    }
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
    Ok(CallAllowance { permit, budget, guard: None })
}

/// Rebuilds the head for the other side: without hop-by-hop headers, without `x-gannet-` headers, and with the host that
/// was checked.
pub(super) fn rebuild(parts: &Parts, to: &CallTarget, protocol: Protocol) -> Result<Parts, OutboundError> {
    let mut parts = parts.clone();
    let length = parts.headers.get(CONTENT_LENGTH).cloned();
    let of_trailers = TrailerHeaders::of(&parts.headers);
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    of_trailers.put_into_request(headers);
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    ours.into_iter().for_each(|name| drop(headers.remove(name)));
    headers.remove(EXPECT);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length);
    }
    if !headers.contains_key(ACCEPT_ENCODING) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    let usual = if to.https { 443 } else { 80 };
    let host = if to.port == usual { to.host.clone() } else { format!("{}:{}", to.host, to.port) };
    let path = parts.uri.path_and_query().cloned().ok_or(OutboundError::Protocol)?;
    match protocol {
        Protocol::Http1 => {
            headers.insert(HOST, HeaderValue::from_str(&host).map_err(|_| OutboundError::Protocol)?);
            if of_trailers.wanted {
                headers.insert(CONNECTION, HeaderValue::from_static("te"));
            }
            (parts.uri, parts.version) = (Uri::from(path), Version::HTTP_11);
        }
        Protocol::Http2 => {
            headers.remove(HOST);
            let scheme = if to.https { "https" } else { "http" };
            let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
            (parts.uri, parts.version) = (uri.map_err(|_| OutboundError::Protocol)?, Version::HTTP_2);
        }
    }
    Ok(parts)
}

/// Rebuilds the response for the worker. `limit` is the size limit of its body in bytes.
fn relay(
    response: Response<Incoming>,
    counter: &Arc<OutboundUse>,
    limit: u64,
    allowance: CallAllowance,
) -> Result<Response<OutboundBody>, OutboundError> {
    // A response without a body may announce how long it would be.
    if !response.body().is_end_stream() && response.body().size_hint().lower() > limit {
        return Err(OutboundError::TooLarge);
    }
    let (mut parts, body) = response.into_parts();
    // Beside a transfer encoding it says nothing (RFC 9112, 6.3).
    let is_coded = parts.headers.contains_key(TRANSFER_ENCODING);
    let length = announced_length(&parts.headers).ok().flatten().filter(|_| !is_coded);
    let of_trailers = TrailerHeaders::of(&parts.headers);
    strip_hop_by_hop(&mut parts.headers);
    of_trailers.put_into_response(&mut parts.headers);
    if let Some(length) = length.filter(|_| may_have_length(parts.status)) {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let ours: Vec<HeaderName> =
        parts.headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    ours.into_iter().for_each(|name| drop(parts.headers.remove(name)));
    allowance.budget.count(counter, trailers::bytes(&parts.headers));
    parts.version = Version::HTTP_2;
    let body = CountedBody::answer(body, Arc::clone(counter), limit, allowance);
    Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_itself_begins_http_2_without_asking() {
        let kind =
            |text: &'static str| is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]));
        assert!(kind("application/grpc") && kind("application/grpc+proto") && kind("application/grpc;charset=x"));
        assert!(!kind("application/grpc-web") && !kind("application/json") && !is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_head_is_rebuilt_for_each_protocol() {
        let request = Request::post("http://x.example:81/a?b")
            .header("host", "forged.example")
            .header("te", "trailers")
            .header("connection", "te, x-secret")
            .header("x-secret", "1")
            .header("x-gannet-key", "1")
            .header("content-length", "3");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let to = CallTarget { https: false, host: "x.example".into(), port: 81 };
        let first = rebuild(&parts, &to, Protocol::Http1).unwrap();
        let get = |parts: &Parts, name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((first.uri.to_string().as_str(), get(&first, "host").as_deref()), ("/a?b", Some("x.example:81")));
        assert_eq!(
            (get(&first, "connection").as_deref(), get(&first, "te").as_deref()),
            (Some("te"), Some("trailers"))
        );
        let second = rebuild(&parts, &to, Protocol::Http2).unwrap();
        assert_eq!((second.uri.to_string().as_str(), get(&second, "host")), ("http://x.example:81/a?b", None));
        assert_eq!((get(&second, "connection"), get(&second, "te").as_deref()), (None, Some("trailers")));
        for parts in [first, second] {
            assert_eq!((get(&parts, "x-secret"), get(&parts, "x-gannet-key")), (None, None));
            assert_eq!(get(&parts, "content-length").as_deref(), Some("3"));
        }
    }
}
