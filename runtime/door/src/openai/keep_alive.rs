//! Keeps the connection of a streaming client alive until the first event, by sending comments, which clients ignore.
//!
//! ```text
//!  the function's head ── within 1 s ──▶ is sent on; `: waiting` ▶ … ▶ the function's own events
//!        │ later
//!        ▼
//!  200 text/event-stream; `: waiting` ▶ … ▶ the function's own events
//!                                       └▶ a refusal, or a response that is not a stream: an event with the error
//! ```
//!
//! The request runs in its own task. The body of a client that does not read is not polled, and the request's time
//! limits must apply nevertheless. Dropping the body aborts the task, so the request of a client that leaves while it
//! waits ends.

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

/// How long to wait for the head of the function's response before a stream of comments is begun instead.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(1);
/// Time between two comments.
const COMMENT_INTERVAL: Duration = Duration::from_secs(5);
/// The comment.
const COMMENT: &[u8] = b": waiting for the model\n\n";
/// The largest error of a function that is passed on, in bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;

type AnswerFuture = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Refusal>> + Send>>;

/// A body that sends comments until the function's first event, then the function's events.
pub struct KeepAliveBody {
    request: RequestId,
    state: State,
    next: Pin<Box<Sleep>>,
}

/// The task that runs the request. Dropping this aborts it.
struct AbortOnDrop(JoinHandle<Result<Response<ResponseBody>, Refusal>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum State {
    /// The function has not responded yet. The flag says whether a comment is to be sent at once.
    AwaitingHead(AbortOnDrop, bool),
    /// The head has arrived, but no event yet.
    AwaitingFirstEvent(ResponseBody),
    /// Passes events on. No comments are sent between them, because a part of the body may end inside an event.
    Streaming(ResponseBody),
    /// Reads a response that is not a stream, to send it as an error event.
    ReadingError(ResponseBody, BytesMut),
    Ended,
}

impl std::fmt::Debug for KeepAliveBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeepAliveBody").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Returns the function's response if its head comes within `HEAD_WAIT_MAX`, otherwise a stream that begins with
/// comments.
pub async fn answer(response_future: AnswerFuture, request: RequestId) -> Result<Response<ResponseBody>, Refusal> {
    let mut task = AbortOnDrop(tokio::spawn(response_future));
    match tokio::time::timeout(HEAD_WAIT_MAX, &mut task.0).await {
        Ok(result) => {
            let response = result.unwrap_or_else(|_| Err(task_panicked()))?;
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

/// The refusal for a task that has panicked, which is a bug.
fn task_panicked() -> Refusal {
    Refusal::new(RefusalKind::Internal, "internal", Blame::Platform, "the request's task ended unexpectedly")
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
            // Polled again, so that the new timer wakes this task.
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
                State::AwaitingHead(task, comment) => match Pin::new(&mut task.0).poll(context).map(|result| {
                    // The task panicked.
                    result.unwrap_or_else(|_| Err(task_panicked()))
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
                        let error_event = event(error);
                        self.state = State::Ended;
                        return Poll::Ready(Some(Ok(Frame::data(error_event))));
                    }
                },
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}
