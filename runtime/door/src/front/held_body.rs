//! The bodies of responses on their way to a client, as the front door holds them.
//!
//! - A body keeps its connection busy until it is dropped, and tells whether it waits for a function or for the client
//!   ([`super::seats`]).
//! - An answer of the control API exists as a whole, so it counts as a whole against the bytes that may wait
//!   ([`crate::waiting_bytes`]) until its memory is free. It is handed over in pieces, and the rest is dropped if the
//!   client takes nothing for [`UNTAKEN_MAX`]. The responses of functions have time limits of their own.

use super::seats::Busy;
use crate::waiting_bytes::{CountedBytes, FullCount, Recipient, WaitingBytes, WaitingLimits};
use bytes::Bytes;
use gannet_base::body::{BrokenOff, ResponseBody};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::pool::{Overdue, SlowClients, WatchGuard};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The largest answer that does not count against the limits, in bytes.
const SHORT_BYTES: u64 = 4 * 1024;
/// A longer part of an answer is handed over in copied pieces of this size, so that the rest can be dropped.
const PIECE_BYTES: usize = 16 * 1024;
/// How long a client may take nothing of an answer of the control API.
const UNTAKEN_MAX: Duration = Duration::from_secs(60);
/// How long a client may take for all of it.
const ANSWER_MAX: Duration = Duration::from_secs(24 * 3600);
/// The bytes that a stream counts for: the latest lines of a log, and what its channel may hold.
const STREAM_BYTES: u64 = 1536 * 1024;

fn is_short(body: &ResponseBody) -> bool {
    body.size_hint().exact().is_some_and(|bytes| bytes <= SHORT_BYTES)
}

/// Keeps the connection busy until the body is dropped.
pub(super) fn keep_busy(body: ResponseBody, mut busy: Busy) -> ResponseBody {
    if body.is_end_stream() {
        return body;
    }
    busy.awaits(false);
    BusyBody { body, busy }.boxed_unsync()
}

struct BusyBody {
    body: ResponseBody,
    busy: Busy,
}

impl Body for BusyBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.busy.awaits(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The answers of the control API that wait for their clients.
#[derive(Debug)]
pub struct WaitingAnswers {
    waiting: Arc<WaitingBytes>,
    clients: Arc<SlowClients<SharedAnswer>>,
}

impl WaitingAnswers {
    /// Starts the task that ends answers which nobody takes.
    pub fn start(waiting: Arc<WaitingBytes>) -> Self {
        Self { waiting, clients: SlowClients::start() }
    }

    /// Returns the counts of what waits.
    pub(super) const fn waiting(&self) -> &Arc<WaitingBytes> {
        &self.waiting
    }

    /// Holds an answer, however many bytes wait already: what it tells has been done.
    pub(super) fn hold_anyway(
        &self,
        response: Response<ResponseBody>,
        recipient: &Recipient,
    ) -> Response<ResponseBody> {
        if is_short(response.body()) {
            return response;
        }
        let bytes = response.body().size_hint().exact().unwrap_or(STREAM_BYTES);
        self.held(response, self.waiting.count(recipient, bytes))
    }

    /// Checks that an answer of this many bytes would fit under the limits now. Reserves nothing.
    pub(super) fn check_room(&self, bytes: u64, recipient: &Recipient, limits: &WaitingLimits) -> Result<(), Refusal> {
        self.waiting.reserve(recipient, bytes, limits).map(drop).map_err(refused)
    }

    /// Holds an answer, or refuses it if too many bytes wait already.
    pub(super) fn hold(
        &self,
        response: Response<ResponseBody>,
        recipient: &Recipient,
        limits: &WaitingLimits,
    ) -> Result<Response<ResponseBody>, Refusal> {
        if is_short(response.body()) {
            return Ok(response);
        }
        let bytes = response.body().size_hint().exact().unwrap_or(STREAM_BYTES);
        let counted = self.waiting.reserve(recipient, bytes, limits).map_err(refused)?;
        Ok(self.held(response, counted))
    }

    fn held(&self, response: Response<ResponseBody>, counted: CountedBytes) -> Response<ResponseBody> {
        response.map(|body| {
            let rest = Bytes::new();
            let answer = Answer { body, rest, waker: None, taken: Instant::now(), _counted: counted };
            let answer = Arc::new(SharedAnswer(Mutex::new(Some(answer))));
            let watched = self.clients.watch(&answer, ANSWER_MAX, UNTAKEN_MAX);
            AnswerBody { _watched: watched, answer }.boxed_unsync()
        })
    }
}

fn refused(full: FullCount) -> Refusal {
    Refusal::new(RefusalKind::TooManyRequests, "answers_waiting", Blame::Caller, full)
        .hint("read the responses that wait, or ask for fewer items")
}

/// An answer that can be dropped while its client takes nothing. `None` once that happened.
#[derive(Debug)]
struct SharedAnswer(Mutex<Option<Answer>>);

struct Answer {
    body: ResponseBody,
    /// The bytes of the latest frame of the body that were not handed over yet.
    rest: Bytes,
    /// Wakes the task that waits for more of the answer. None while the client has not asked for more.
    waker: Option<Waker>,
    taken: Instant,
    _counted: CountedBytes,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Overdue for SharedAnswer {
    fn untaken_since(&self) -> Option<Instant> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answer.as_ref().and_then(|answer| answer.waker.is_none().then_some(answer.taken))
    }

    fn lost_access(&self) -> Option<(&'static str, String)> {
        // Logs look themselves, and other answers are complete.
        None
    }

    fn end_access(&self, _: &'static str, _: String) {}

    fn end(&self, _: Duration) {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = answer.and_then(|answer| answer.waker) {
            waker.wake();
        }
    }
}

struct AnswerBody {
    /// Dropped first, so that the answer is not dropped while all watched ones are locked.
    _watched: WatchGuard<SharedAnswer>,
    answer: Arc<SharedAnswer>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut answer = self.answer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Answer { body, rest, waker, taken, .. }) = &mut *answer else {
            return Poll::Ready(Some(Err(BrokenOff("the client took nothing for too long".into()))));
        };
        if rest.is_empty() {
            match Pin::new(body).poll_frame(context) {
                Poll::Pending => {
                    *waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => *rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return ended,
            }
        }
        (*waker, *taken) = (None, Instant::now());
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&piece)))))
    }

    fn is_end_stream(&self) -> bool {
        let answer = self.answer.0.lock().unwrap_or_else(PoisonError::into_inner);
        answer.as_ref().is_some_and(|answer| answer.rest.is_empty() && answer.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let answer = self.answer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = answer.as_ref() else { return SizeHint::default() };
        let (rest, body) = (answer.rest.len() as u64, answer.body.size_hint());
        body.exact().map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + rest))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::body::full;
    use std::net::IpAddr;

    const LIMITS: WaitingLimits = WaitingLimits { address: 64 << 20, all: 256 << 20 };

    fn recipient() -> Recipient {
        Recipient::new(1, IpAddr::from([127, 0, 0, 1]), None)
    }

    #[tokio::test]
    async fn bytes_that_wait_are_bounded_and_given_back() {
        let answers = WaitingAnswers::start(WaitingBytes::new());
        let long = || Response::new(full(Bytes::from(vec![0; 10 << 20])));
        let held = answers.hold(long(), &recipient(), &LIMITS).unwrap();
        let refused = answers.hold(long(), &recipient(), &LIMITS).map(|_| ()).unwrap_err();
        assert_eq!((refused.code, refused.blame), ("answers_waiting", Blame::Caller));
        assert!(answers.hold(Response::new(full(Bytes::from_static(b"short"))), &recipient(), &LIMITS).is_ok());
        drop(held);
        assert_eq!(answers.waiting.all(), 0);
    }

    #[tokio::test]
    async fn an_answer_arrives_whole_in_pieces() {
        let answers = WaitingAnswers::start(WaitingBytes::new());
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let held = answers.hold(Response::new(full(Bytes::from(bytes.clone()))), &recipient(), &LIMITS).unwrap();
        let mut body = held.into_body();
        let mut got = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE_BYTES);
            got.extend_from_slice(&data);
            assert_eq!(body.size_hint().exact(), Some((bytes.len() - got.len()) as u64));
        }
        assert_eq!(got, bytes);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_ends_and_frees_its_bytes() {
        let answers = WaitingAnswers::start(WaitingBytes::new());
        let long = Response::new(full(Bytes::from(vec![7; 1 << 20])));
        let mut held = answers.hold(long, &recipient(), &LIMITS).unwrap();
        answers.clients.end_overdue(Instant::now() + UNTAKEN_MAX * 2);
        assert_eq!(answers.waiting.all(), 0);
        assert!(held.body_mut().frame().await.unwrap().is_err());
    }
}
