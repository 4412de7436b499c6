//! The request that the worker gets, rebuilt from the client's request.
//!
//! Hop-by-hop headers, including those that `Connection` names, are removed. Framing is derived from the body.
//! Forwarding headers are replaced, and headers that start with `x-gannet-` are removed. The body is counted, and
//! has a size limit and an idle timeout.

use crate::calling::depth_below;
use crate::inbound::{BODY_IDLE_MAX, FunctionBody, FunctionRequest, RequestError};
use bytes::{Bytes, BytesMut};
use gannet_base::headers::{CALLER, JOB_ATTEMPT, JOB_ID, REQUEST_ID, header_value, strip_hop_by_hop};
use gannet_base::hop::VersionKey;
use gannet_base::hop::heads::{self, RequestHead};
use gannet_base::trailers::{self, TrailerHeaders};
use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The state of a request's body, readable after the worker's connection has taken the body.
#[derive(Debug, Default)]
pub(crate) struct BodyState {
    bytes: AtomicU64,
    done: AtomicBool,
    refused: Mutex<Option<RequestError>>,
    /// The unread rest of a body that was cut.
    rest: Mutex<Option<Incoming>>,
}

impl BodyState {
    /// Bytes that were passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the whole body was passed on.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Takes the unread rest of a body that was cut.
    pub(crate) fn rest(&self) -> Option<Incoming> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the reason why the body was cut; `None` if it was not.
    pub(crate) fn refused(&self) -> Option<RequestError> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A request's body on its way to the worker.
#[derive(Debug)]
pub struct RequestBody {
    /// A part that was taken out and put back.
    put_back: Option<Frame<Bytes>>,
    /// The whole body, if it is in memory.
    collected: Option<Bytes>,
    body: Option<Incoming>,
    limit: u64,
    state: Arc<BodyState>,
    idle: Option<Pin<Box<Sleep>>>,
}

/// A body that was cut. The worker sees its connection break off.
#[derive(Debug, thiserror::Error)]
#[error("the request's body was cut")]
pub struct BodyCut;

impl RequestBody {
    pub(crate) fn new(body: FunctionBody, limit: u64) -> (Self, Arc<BodyState>) {
        let state = Arc::new(BodyState::default());
        let (collected, body) = match body {
            FunctionBody::Incoming(body) => (None, Some(body)),
            FunctionBody::Whole(bytes) => (Some(bytes).filter(|bytes| !bytes.is_empty()), None),
        };
        let is_empty = collected.is_none() && body.as_ref().is_none_or(Body::is_end_stream);
        state.done.store(is_empty, Ordering::Relaxed);
        (Self { put_back: None, collected, body, limit, state: Arc::clone(&state), idle: None }, state)
    }

    /// Returns an empty body.
    pub(crate) fn empty() -> (Self, Arc<BodyState>) {
        let state = Arc::new(BodyState::default());
        state.done.store(true, Ordering::Relaxed);
        (Self { put_back: None, collected: None, body: None, limit: 0, state: Arc::clone(&state), idle: None }, state)
    }

    /// Puts back the part that was taken out first, because it was not sent.
    pub(crate) fn put_back(&mut self, frame: Frame<Bytes>) {
        if frame.data_ref().is_none_or(|data| !data.is_empty()) {
            self.put_back = Some(frame);
        }
    }

    /// Ends the body with an error, and keeps the reason and the unread rest in the state.
    fn cut(&mut self, why: RequestError) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        *self.state.rest.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
        *self.state.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        Poll::Ready(Some(Err(BodyCut)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        if let Some(frame) = self.put_back.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(collected) = self.collected.take() {
            self.state.bytes.store(collected.len() as u64, Ordering::Relaxed);
            self.state.done.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(Frame::data(collected))));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let ended = body.is_end_stream();
                self.state.done.store(ended, Ordering::Relaxed);
                self.idle = None;
                let frame = match frame.into_trailers() {
                    Ok(mut fields) => {
                        self.state.done.store(true, Ordering::Relaxed);
                        let (count, limit) = (fields.len(), trailers::FIELDS_MAX);
                        if count > limit {
                            return self.cut(RequestError::HeadTooLarge { count, limit });
                        }
                        trailers::clean(&mut fields);
                        return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                    }
                    Err(frame) => frame,
                };
                let Some(data) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
                let total = self.state.bytes.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
                if total > self.limit {
                    let limit = self.limit;
                    return self.cut(RequestError::BodyTooLarge { limit });
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.cut(RequestError::Malformed(format!("the body broke off: {error}"))),
            Poll::Ready(None) => {
                self.state.done.store(true, Ordering::Relaxed);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let idle =
                    self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + BODY_IDLE_MAX)));
                if idle.as_mut().poll(context).is_ready() {
                    return self.cut(RequestError::BodyTooSlow { seconds: BODY_IDLE_MAX.as_secs() });
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.put_back.is_none() && self.collected.is_none() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(collected) = &self.collected {
            return SizeHint::with_exact(collected.len() as u64);
        }
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Methods whose requests have a length even when their body is empty (RFC 9110, 8.6).
const HAVE_BODIES: [Method; 3] = [Method::POST, Method::PUT, Method::PATCH];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Joins the parts of a cookie header, which HTTP/2 clients may send as several headers (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

/// Where the client sent the request, as far as the guest must know it.
struct SentTo<'a> {
    https: bool,
    /// The authority of the URI, in HTTP/2.
    authority: Option<&'a str>,
    prefix: Option<&'a str>,
}

fn rebuild_headers(headers: &mut HeaderMap, client: IpAddr, sent_to: &SentTo<'_>) {
    let SentTo { https, authority, prefix } = *sent_to;
    let of_trailers = TrailerHeaders::of(headers);
    strip_hop_by_hop(headers);
    of_trailers.put_into_request(headers);
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-gannet-") || name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    headers.remove(FORWARDED);
    join_cookies(headers);
    headers.remove(EXPECT);
    if !headers.contains_key(HOST)
        && let Some(value) = authority.and_then(|text| HeaderValue::from_str(text).ok())
    {
        headers.insert(HOST, value);
    }
    if !headers.contains_key(HOST) {
        // HTTP/1.0 clients may send no host, but the guest's interface needs one.
        headers.insert(HOST, HeaderValue::from_static("localhost"));
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    if let Some(value) = header_value(format_args!("{client}")) {
        headers.insert(FORWARDED_FOR, value);
    }
    if let Some(value) = prefix.and_then(|prefix| HeaderValue::from_str(prefix).ok()) {
        headers.insert(FORWARDED_PREFIX, value);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if https { "https" } else { "http" }));
}

/// A request for the hop.
#[derive(Debug)]
pub(crate) struct HopRequest {
    /// Its head, encoded.
    pub(crate) frame: BytesMut,
    /// Its body.
    pub(crate) body: RequestBody,
    /// Whether it may be sent again after a part of it was sent: its method is idempotent and it has no body.
    pub(crate) repeatable: bool,
}

impl HopRequest {
    /// Sets the time that the worker has left. A request that is sent again has less.
    pub(crate) fn set_deadline(&mut self, left: Duration) {
        heads::set_deadline(&mut self.frame, u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    }
}

/// Rebuilds a request for the hop. `limit` is the size limit of its body in bytes.
pub(crate) fn rebuild(
    request: FunctionRequest,
    (path, prefix): (PathAndQuery, Option<&str>),
    version: VersionKey,
    limit: u64,
) -> (HopRequest, Arc<BodyState>) {
    let FunctionRequest { id, client, https, parts, body, caps, job, call, .. } = request;
    let caller = call.as_ref().map(|(caller, _)| &**caller);
    let Parts { method, uri, mut headers, .. } = parts;
    let sent_to = SentTo { https, authority: uri.authority().map(Authority::as_str), prefix };
    rebuild_headers(&mut headers, client, &sent_to);
    let (body, state) = RequestBody::new(body, limit);
    let length = body.size_hint().exact();
    if let Some(length) = length.filter(|length| *length > 0 || HAVE_BODIES.contains(&method)) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(value) = header_value(format_args!("{id}")) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(job) = job {
        headers.extend(header_value(format_args!("{}", job.id)).map(|value| (JOB_ID, value)));
        headers.insert(JOB_ATTEMPT, HeaderValue::from(job.number));
    }
    if let Some(caller) = caller {
        headers.extend(header_value(format_args!("{}", caller.function())).map(|value| (CALLER, value)));
    }
    let repeatable = method.is_idempotent() && body.is_end_stream();
    let depth = depth_below(caller);
    let head = RequestHead { version, request: id, deadline_ms: 0, caps, depth, method, uri: Uri::from(path), headers };
    (HopRequest { frame: heads::encode_request(&head), body, repeatable }, state)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_forged_or_of_the_connection_gets_through() {
        let mut headers: HeaderMap = [
            ("host", "example.org"),
            ("connection", "x-secret, close"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("x-gannet-tenant", "zoo"),
            ("x-gannet-hop-version", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-prefix", "/admin"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("forwarded", "for=1.2.3.4"),
            ("x-kept", "yes"),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
        let sent_to = SentTo { https: false, authority: None, prefix: Some("/f/acme/blur") };
        rebuild_headers(&mut headers, "10.0.0.9".parse().unwrap(), &sent_to);
        let mut seen: Vec<_> = headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "cookie=a=1; b=2",
                "host=example.org",
                "te=trailers",
                "x-forwarded-for=10.0.0.9",
                "x-forwarded-host=example.org",
                "x-forwarded-prefix=/f/acme/blur",
                "x-forwarded-proto=http",
                "x-kept=yes"
            ]
        );
    }
}
