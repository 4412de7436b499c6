//! Turns what a guest answers into what the front door gets.
//!
//! ```text
//!            ┌ guest done, body whole ──▶ one message, receipt in the head   (almost every request)
//!  first ────┤ body whole, guest goes on ▶ one message, receipt as a frame when the guest ends
//!  (≤ GATHER)└ body goes on ────────────▶ streamed, receipt as a frame at the end
//! ```
//!
//! Small answers are gathered for a moment so that their head can say what they cost. While a body
//! streams, the guest runs inside the body's own poll: a client that reads slowly slows the guest
//! down, and one that leaves ends it.

use crate::worker::context::WorkerContext;
use crate::worker::received::Whole;
use crate::worker::usage::{Answered, Ended, RequestUsage, Running};
use bytes::{Bytes, BytesMut};
use gannet_base::hop::{Fault, FaultCode, FromWorker, RunLimits, Work, header};
use gannet_base::names::RequestId;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// How long an answer's body is gathered before it is streamed.
const GATHER_MAX: Duration = Duration::from_millis(2);
/// A guest's words in a fault: they travel in a header.
const DETAIL_CHARACTERS_MAX: usize = 2000;
/// Headers of an answer.
const HEADERS_MAX: usize = 128;
/// How much of it.
const GATHER_BYTES_MAX: usize = 1024 * 1024;

/// What an answer needs to know of its request.
pub(crate) struct Context {
    pub(super) shared: Arc<WorkerContext>,
    pub(crate) usage: Arc<RequestUsage>,
    pub(crate) request: RequestId,
    pub(crate) limits: RunLimits,
    /// Whether the request's body came to its end.
    pub(crate) received: Whole,
    /// Whether the front door still waits for the receipt. If everything is dropped, because the client left,
    /// it is sent from here.
    pub(crate) owed: bool,
}

impl Context {
    /// The receipt, which is then no longer owed. Where the connection that an answer goes over may be closed, it is sent as a frame
    /// too; the front door takes the first.
    fn settle(&mut self, fault: Option<Fault>) -> Work {
        self.owed = false;
        let work = self.usage.work(fault);
        if !self.received.load(Ordering::Relaxed) {
            let (shared, request, work) = (Arc::clone(&self.shared), self.request, work.clone());
            tokio::spawn(async move { send(&shared, request, work).await });
        }
        work
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.owed {
            let (shared, usage, request) = (Arc::clone(&self.shared), Arc::clone(&self.usage), self.request);
            tokio::spawn(async move {
                usage.drain().await;
                send(&shared, request, usage.work(None)).await;
            });
        }
    }
}

/// The body of an answer to the front door.
pub(crate) enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// Some of it and a guest that makes the rest.
    Streamed(Box<Streamed>),
}

/// Answers that the guest failed. The front door names the status.
pub(crate) fn fault(mut work: Work, code: FaultCode, detail: &str) -> Response<AnswerBody> {
    let detail = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
    work.fault = Some(Fault { code, detail });
    let mut response = Response::new(AnswerBody::Whole(Bytes::new()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    attach(response.headers_mut(), &work);
    response.headers_mut().insert(header::FAULT, HeaderValue::from_static("1"));
    response
}

fn attach(headers: &mut HeaderMap, work: &Work) {
    let value = serde_json::to_string(work).ok().and_then(|text| HeaderValue::from_str(&escape(&text)).ok());
    if let Some(value) = value {
        headers.insert(header::WORK, value);
    }
}

/// Makes JSON fit a header: what is not printable ASCII becomes an escape, which JSON allows in
/// strings, the only place where it can stand.
fn escape(json: &str) -> String {
    if json.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for unit in json.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (0x20..0x7f).contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
    out
}

/// Polls the guest until there is an answer, and answers.
pub(crate) async fn first(
    mut context: Context,
    mut guest: Running,
    mut answer: oneshot::Receiver<Answered>,
    deadline: Instant,
) -> Response<AnswerBody> {
    let mut ended: Option<Ended> = None;
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered.ok(),
        result = &mut guest => {
            ended = Some(result);
            // It may have answered in the same poll in which it ended.
            answer.try_recv().ok()
        }
        () = tokio::time::sleep_until(deadline) => {
            drop(guest);
            context.usage.drain().await;
            let work = context.settle(None);
            let limit = context.limits.timeout_ms;
            let told = format!("the function did not answer within limits.timeout_ms = {limit}, all waiting included");
            return fault(work, FaultCode::DeadlineExceeded, &told);
        }
    };
    match (answered, ended) {
        (Some(Ok(response)), ended) => gather(context, guest, ended, response).await,
        (_, Some(Err(failed))) => fault(context.settle(None), failed.code, &failed.detail),
        (Some(Err(code)), _) => {
            drop(guest);
            context.usage.drain().await;
            let detail = format!("the function answered with an error: {code}");
            fault(context.settle(None), FaultCode::FunctionTrapped, &detail)
        }
        (None, Some(Ok(()))) => {
            fault(context.settle(None), FaultCode::FunctionTrapped, "the function ended without an answer")
        }
        // The sender is gone but the guest is not: it dropped its outparam and goes on.
        (None, None) => {
            drop(guest);
            context.usage.drain().await;
            fault(context.settle(None), FaultCode::FunctionTrapped, "the function gave up its answer")
        }
    }
}

async fn gather(
    mut context: Context,
    mut guest: Running,
    mut ended: Option<Ended>,
    response: Response<HyperOutgoingBody>,
) -> Response<AnswerBody> {
    let (mut head, mut body) = response.into_parts();
    // Such a head would be lost on its way, and the bill with it.
    if head.status.is_informational() || head.headers.len() > HEADERS_MAX {
        let (status, count) = (head.status.as_u16(), head.headers.len());
        drop((body, guest));
        context.usage.drain().await;
        let detail = format!(
            "the function answered with status {status} and {count} headers; there may be {HEADERS_MAX}, and no status below 200"
        );
        return fault(context.settle(None), FaultCode::FunctionTrapped, &detail);
    }
    clean(&mut head.headers);
    let mut gathered = BytesMut::new();
    let mut only: Option<Bytes> = None;
    let mut whole = false;
    let enough = tokio::time::sleep(GATHER_MAX);
    tokio::pin!(enough);
    while !(whole && ended.is_some()) && gathered.len() < GATHER_BYTES_MAX {
        tokio::select! {
            biased;
            frame = body.frame(), if !whole => match frame {
                Some(Ok(frame)) => if let Ok(data) = frame.into_data() {
                    // One part, the usual case, is passed on without a copy.
                    if only.is_none() && gathered.is_empty() {
                        only = Some(data);
                    } else {
                        if let Some(first) = only.take() { gathered.extend_from_slice(&first); }
                        gathered.extend_from_slice(&data);
                    }
                    if only.as_ref().is_some_and(|data| data.len() >= GATHER_BYTES_MAX) { break; }
                },
                // Nothing has left yet, so the caller can be told properly.
                Some(Err(error)) => {
                    let broken = Fault { code: FaultCode::FunctionTrapped, detail: format!("the function's body broke off: {error}") };
                    let failed = ended.and_then(Result::err).unwrap_or(broken);
                    drop(guest);
                    context.usage.drain().await;
                    return fault(context.settle(None), failed.code, &failed.detail);
                }
                None => whole = true,
            },
            result = &mut guest, if ended.is_none() => ended = Some(result),
            () = &mut enough => break,
        }
    }
    let gathered = only.unwrap_or_else(|| gathered.freeze());
    match (whole, ended) {
        (true, Some(Ok(()))) => {
            attach(&mut head.headers, &context.settle(None));
            Response::from_parts(head, AnswerBody::Whole(gathered))
        }
        (true, None) => {
            tokio::spawn(finish(context, guest));
            Response::from_parts(head, AnswerBody::Whole(gathered))
        }
        // A guest that traps ends its body too, so a body that ended with a trap may not be whole.
        (_, Some(Err(failed))) => fault(context.settle(None), failed.code, &failed.detail),
        (false, ended) => {
            let streamed = Streamed::new(context, guest, ended, gathered, body);
            Response::from_parts(head, AnswerBody::Streamed(Box::new(streamed)))
        }
    }
}

/// Headers that only the platform may set, and those that belong to one connection.
fn clean(headers: &mut HeaderMap) {
    let ours: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Lets a guest that has answered run on, within its time.
async fn finish(mut context: Context, guest: Running) {
    let limit = Duration::from_millis(context.limits.stream_ms);
    let fault = match tokio::time::timeout(limit, guest).await {
        Ok(ended) => ended.err(),
        Err(_) => Some(overtime("ran on after its answer", "stream_timeout_ms", context.limits.stream_ms)),
    };
    context.usage.drain().await;
    let work = context.settle(fault);
    send(&context.shared, context.request, work).await;
}

fn overtime(what: &str, name: &str, limit_ms: u64) -> Fault {
    Fault { code: FaultCode::DeadlineExceeded, detail: format!("the function {what}: limits.{name} = {limit_ms}") }
}

async fn send(shared: &WorkerContext, request: RequestId, work: Work) {
    if let Err(error) = shared.control.send(&FromWorker::Work { request, work }, &[]).await {
        tracing::debug!(%error, "a receipt could not be sent");
    }
}

/// See [`AnswerBody`].
pub(crate) struct Streamed {
    /// Taken when the receipt is sent.
    context: Option<Context>,
    guest: Option<Running>,
    ended: Option<Ended>,
    gathered: Option<Bytes>,
    body: HyperOutgoingBody,
    /// Bytes to come, where the guest announced how many. After the last, nobody asks for the end.
    left: Option<u64>,
    whole: bool,
    idle: Pin<Box<Sleep>>,
    total: Pin<Box<Sleep>>,
}

impl Streamed {
    fn new(context: Context, guest: Running, ended: Option<Ended>, gathered: Bytes, body: HyperOutgoingBody) -> Self {
        let idle = Box::pin(tokio::time::sleep(Duration::from_millis(context.limits.stream_idle_ms)));
        let total = Box::pin(tokio::time::sleep(Duration::from_millis(context.limits.stream_ms)));
        let guest = ended.is_none().then_some(guest);
        let gathered = (!gathered.is_empty()).then_some(gathered);
        let left = body.size_hint().exact().map(|rest| rest + gathered.as_ref().map_or(0, |data| data.len() as u64));
        Self { context: Some(context), guest, ended, gathered, body, left, whole: false, idle, total }
    }

    /// Ends the request: sends its receipt, once.
    fn close(&mut self, fault: Option<Fault>) {
        self.guest = None;
        if let Some(mut context) = self.context.take() {
            tokio::spawn(async move {
                context.usage.drain().await;
                let work = context.settle(fault);
                send(&context.shared, context.request, work).await;
            });
        }
    }

    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(data) = self.gathered.take() {
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(guest) = &mut self.guest
            && let Poll::Ready(ended) = guest.as_mut().poll(task)
        {
            self.guest = None;
            self.ended = Some(ended);
        }
        if !self.whole {
            match Pin::new(&mut self.body).poll_frame(task) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.left =
                        self.left.map(|left| left.saturating_sub(frame.data_ref().map_or(0, |d| d.len() as u64)));
                    self.restart_idle();
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => return self.broken(error.to_string()),
                // A guest that has trapped ends its body too; only before that is the end its own word.
                Poll::Ready(None) => self.whole = !matches!(self.ended, Some(Err(_))),
                Poll::Pending => {}
            }
        }
        match &self.ended {
            Some(Err(fault)) if !self.whole => {
                let fault = fault.clone();
                let detail = fault.detail.clone();
                self.close(Some(fault));
                return Poll::Ready(Some(Err(BrokenOff(detail))));
            }
            Some(ended) if self.whole => {
                let fault = ended.clone().err();
                self.close(fault);
                return Poll::Ready(None);
            }
            _ => {}
        }
        let limits = self.context.as_ref().map(|context| &context.limits);
        let late = if self.idle.as_mut().poll(task).is_ready() {
            Some(overtime(
                "sent nothing for too long",
                "stream_idle_ms",
                limits.map_or(0, |limits| limits.stream_idle_ms),
            ))
        } else if self.total.as_mut().poll(task).is_ready() {
            Some(overtime("streamed for too long", "stream_timeout_ms", limits.map_or(0, |limits| limits.stream_ms)))
        } else {
            None
        };
        if let Some(fault) = late {
            let detail = fault.detail.clone();
            self.close(Some(fault));
            return Poll::Ready(Some(Err(BrokenOff(detail))));
        }
        Poll::Pending
    }

    fn restart_idle(&mut self) {
        if let Some(context) = &self.context {
            self.idle.as_mut().reset(Instant::now() + Duration::from_millis(context.limits.stream_idle_ms));
        }
    }

    /// The guest's body ended wrongly. If the guest is about to trap, its own words are better.
    fn broken(&mut self, detail: String) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let fault = match self.ended.take() {
            Some(Err(fault)) => fault,
            _ => Fault { code: FaultCode::FunctionTrapped, detail: format!("the function's body broke off: {detail}") },
        };
        let detail = fault.detail.clone();
        self.close(Some(fault));
        Poll::Ready(Some(Err(BrokenOff(detail))))
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        match (self.left, self.guest.take(), self.context.take()) {
            // All was sent: the guest may run on.
            (Some(0), Some(guest), Some(context)) => drop(tokio::spawn(finish(context, guest))),
            // Otherwise whoever drops a body that has not ended has lost its client.
            (_, _, context) => {
                self.context = context;
                self.close(None);
            }
        }
    }
}

/// A streamed answer that could not be finished; the connection is closed in the middle of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BrokenOff(String);

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streamed(streamed) => streamed.poll(task),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_detail_fits_a_header_and_comes_back() {
        let work = Work {
            fault: Some(Fault { code: FaultCode::FunctionTrapped, detail: "zeile\n\"ü\" 🦀 \u{7f}".into() }),
            ..Work::default()
        };
        let mut headers = HeaderMap::new();
        attach(&mut headers, &work);
        let value = headers.get(header::WORK).and_then(|value| value.to_str().ok());
        assert_eq!(value.and_then(|text| serde_json::from_str(text).ok()), Some(work));
    }
}
