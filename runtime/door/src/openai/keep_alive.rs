//! Keeps a client of a stream waiting until there is a first event: by comments, which clients ignore.
//!
//! ```text
//!  the answer's head ── within a moment ──▶ answered with it; `: waiting` ▶ … until its first event
//!        │ later
//!        ▼
//!  200 text/event-stream: `: waiting` ▶ … ▶ the answer's own events
//!                                       └▶ a refusal, or an answer that is no stream: an event with the error
//! ```
//!
//! The request goes on in a task of its own, because a client that takes nothing is not polled, and its time must pass all the
//! same. Dropping the body ends the task: a client that leaves while it waits is not served.

use crate::respond::{openai_error, stream};
use bytes::{Bytes, BytesMut};
use gannet_base::body::{BrokenOff, ResponseBody};
use gannet_base::names::RequestId;
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

/// How long an answer's head may take until comments are sent in its place.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(1);
/// From one comment to the next.
const COMMENT_INTERVAL: Duration = Duration::from_secs(5);
/// What is sent.
const COMMENT: &[u8] = b": waiting for the model\n\n";
/// The longest error of a function that is passed on.
const ERROR_BYTES_MAX: usize = 64 << 10;

type AnswerFuture = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Refusal>> + Send>>;

/// The body of an answer that was begun before there was one.
pub struct KeepAliveBody {
    request: RequestId,
    state: State,
    next: Pin<Box<Sleep>>,
}

/// The task that answers, until this is dropped.
struct AbortOnDrop(JoinHandle<Result<Response<ResponseBody>, Refusal>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum State {
    /// No answer yet; whether a comment is to be sent at once.
    AwaitingHead(AbortOnDrop, bool),
    /// Its head is there, and no event yet.
    AwaitingFirstEvent(ResponseBody),
    /// Its events. Nothing is put between them: a part of a body may end within one.
    Streaming(ResponseBody),
    /// An error, being read.
    ReadingError(ResponseBody, BytesMut),
    Ended,
}

impl std::fmt::Debug for KeepAliveBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeepAliveBody").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Answers as soon as there is a head, or begins a stream when it takes longer.
pub async fn answer(answering: AnswerFuture, request: RequestId) -> Result<Response<ResponseBody>, Refusal> {
    let mut task = AbortOnDrop(tokio::spawn(answering));
    match tokio::time::timeout(HEAD_WAIT_MAX, &mut task.0).await {
        Ok(answered) => {
            let response = answered.unwrap_or_else(|_| Err(task_panicked()))?;
            if !is_events(&response) {
                return Ok(response);
            }
            Ok(response.map(|body| KeepAliveBody::new(request, State::AwaitingFirstEvent(body)).boxed_unsync()))
        }
        Err(_) => {
            let waiting = KeepAliveBody::new(request, State::AwaitingHead(task, true));
            Ok(stream("text/event-stream", waiting.boxed_unsync()))
        }
    }
}

/// What is told when the task has panicked, which it should not.
fn task_panicked() -> Refusal {
    Refusal::new(RefusalKind::Internal, "internal", Blame::Platform, "the request's task ended")
}

fn event(json: &[u8]) -> Bytes {
    // An event's data must be one line.
    let line: Vec<u8> = json.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect();
    [b"data: ".as_slice(), &line, b"\n\n"].concat().into()
}

fn is_events(response: &Response<ResponseBody>) -> bool {
    let media_type = response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    response.status().is_success() && media_type.is_some_and(|text| text.starts_with("text/event-stream"))
}

impl KeepAliveBody {
    fn new(request: RequestId, state: State) -> Self {
        Self { request, state, next: Box::pin(tokio::time::sleep(COMMENT_INTERVAL)) }
    }

    /// Whether it is time for a comment. If it is not, the task is woken when it is.
    fn due(&mut self, context: &mut Context<'_>) -> bool {
        let due = self.next.as_mut().poll(context).is_ready();
        if due {
            self.next.as_mut().reset(Instant::now() + COMMENT_INTERVAL);
            // Polled again, so that it wakes us.
            let _ = self.next.as_mut().poll(context);
        }
        due
    }
}

impl Body for KeepAliveBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            match &mut self.state {
                State::AwaitingHead(task, comment) => match Pin::new(&mut task.0).poll(context).map(|answered| {
                    // A task that panicked.
                    answered.unwrap_or_else(|_| Err(task_panicked()))
                }) {
                    Poll::Ready(Ok(response)) if is_events(&response) => {
                        self.state = State::AwaitingFirstEvent(response.into_body());
                    }
                    Poll::Ready(Ok(response)) => {
                        self.state = State::ReadingError(response.into_body(), BytesMut::new());
                    }
                    Poll::Ready(Err(refusal)) => {
                        self.state = State::Ended;
                        return Poll::Ready(Some(Ok(Frame::data(event(&openai_error(&refusal, self.request))))));
                    }
                    Poll::Pending => {
                        let first = std::mem::take(comment);
                        if !(self.due(context) || first) {
                            return Poll::Pending;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
                    }
                },
                State::AwaitingFirstEvent(body) => match Pin::new(body).poll_frame(context) {
                    Poll::Pending if self.due(context) => {
                        return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
                    }
                    Poll::Pending => return Poll::Pending,
                    part => {
                        if let State::AwaitingFirstEvent(body) = std::mem::replace(&mut self.state, State::Ended) {
                            self.state = State::Streaming(body);
                        }
                        return part;
                    }
                },
                State::Streaming(body) => return Pin::new(body).poll_frame(context),
                State::ReadingError(body, error) => match Pin::new(body).poll_frame(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data()
                            && error.len() + data.len() <= ERROR_BYTES_MAX
                        {
                            error.extend_from_slice(&data);
                        }
                    }
                    Poll::Ready(Some(Err(broken))) => return Poll::Ready(Some(Err(broken))),
                    Poll::Ready(None) => {
                        let told = event(error);
                        self.state = State::Ended;
                        return Poll::Ready(Some(Ok(Frame::data(told))));
                    }
                },
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}
