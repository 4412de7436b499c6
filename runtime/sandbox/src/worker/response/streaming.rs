//! A response's body that is streamed while its guest runs.
//!
//! ```text
//!  each poll: what was gathered ▶ poll the guest ▶ a frame of its body ▶ the time limits
//!  it closes once: body ended and guest ended ▶ receipt
//!                  body ended before the guest ▶ the guest runs on, receipt when it ends
//!                  guest trapped, body broke or a limit passed ▶ the connection breaks off, receipt with the fault
//!                  dropped because the client left ▶ receipt
//!                  dropped after all announced bytes were sent ▶ the guest runs on, receipt when it ends
//! ```
//!
//! No other task polls the guest, so a client that reads slowly slows it down. An incomplete body must never look
//! complete, so it ends with an error.

use crate::worker::body_end::OutgoingBody;
use crate::worker::response::context::ResponseContext;
use crate::worker::response::faults::{broken_body, time_limit_fault, too_many_trailers, wrong_length};
use crate::worker::response::run_on::run_on;
use crate::worker::running_guest::{GuestFuture, GuestOutcome};
use bytes::Bytes;
use gannet_base::hop::Fault;
use gannet_base::trailers::{FIELDS_MAX, clean};
use http::HeaderMap;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A streamed response that could not be finished. The connection is closed in the middle of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StreamError(String);

type PolledFrame = Poll<Option<Result<Frame<Bytes>, StreamError>>>;

/// A streamed body, and the guest that makes it.
pub(crate) struct StreamingBody {
    /// Taken when the stream closes.
    context: Option<ResponseContext>,
    guest: Option<GuestFuture>,
    outcome: Option<GuestOutcome>,
    /// What was gathered before the stream began.
    gathered: Option<Bytes>,
    body: OutgoingBody,
    /// The length of the body, if the guest announced it. After the last byte the body is not polled again, so its end is
    /// not seen.
    announced: Option<u64>,
    /// Bytes that were passed on.
    sent: u64,
    /// The trailers, once they are known. They are passed on when the guest has ended.
    trailers: Option<HeaderMap>,
    body_ended: bool,
    idle_timeout: Pin<Box<Sleep>>,
    total_timeout: Pin<Box<Sleep>>,
}

impl StreamingBody {
    pub(super) fn new(
        context: ResponseContext,
        guest: GuestFuture,
        outcome: Option<GuestOutcome>,
        (gathered, body, announced, trailers): (Bytes, OutgoingBody, Option<u64>, Option<HeaderMap>),
    ) -> Self {
        let announced = announced.or_else(|| body.size_hint().exact().map(|rest| rest + gathered.len() as u64));
        Self {
            idle_timeout: Box::pin(tokio::time::sleep(Duration::from_millis(context.limits.stream_idle_ms))),
            total_timeout: Box::pin(tokio::time::sleep(Duration::from_millis(context.limits.stream_ms))),
            context: Some(context),
            guest: outcome.is_none().then_some(guest),
            outcome,
            gathered: (!gathered.is_empty()).then_some(gathered),
            body,
            announced,
            sent: 0,
            trailers,
            body_ended: false,
        }
    }

    /// Returns how many bytes are still to be sent, if the guest announced a length.
    pub(crate) fn bytes_left(&self) -> Option<u64> {
        self.announced.map(|announced| announced.saturating_sub(self.sent))
    }

    fn poll(&mut self, task: &mut Context<'_>) -> PolledFrame {
        if self.context.is_none() {
            // Closed, and the trailers were taken.
            return Poll::Ready(None);
        }
        if let Some(data) = self.gathered.take() {
            self.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(guest) = &mut self.guest
            && let Poll::Ready(outcome) = guest.as_mut().poll(task)
        {
            self.guest = None;
            self.outcome = Some(outcome);
        }
        if !self.body_ended {
            match Pin::new(&mut self.body).poll_frame(task) {
                Poll::Ready(Some(Ok(frame))) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            self.trailers = frame.into_trailers().ok();
                            let count = self.trailers.as_ref().map_or(0, HeaderMap::len);
                            if count > FIELDS_MAX {
                                return self.break_off(too_many_trailers(count));
                            }
                            // What follows is the end of the body.
                            return self.poll(task);
                        }
                    };
                    self.sent += data.len() as u64;
                    if let Some(announced) = self.announced.filter(|announced| self.sent > *announced) {
                        return self.break_off(wrong_length(announced, self.sent));
                    }
                    self.restart_idle_timeout();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => {
                    // If the guest trapped, the trap is the reason.
                    let trap = self.outcome.take().and_then(Result::err);
                    return self.break_off(trap.unwrap_or_else(|| broken_body(&error)));
                }
                // A trap ends the guest's body too. Only without a trap is the body complete.
                Poll::Ready(None) => self.body_ended = !matches!(self.outcome, Some(Err(_))),
                Poll::Pending => {}
            }
        }
        if self.body_ended
            && self.announced.is_none_or(|announced| self.sent == announced)
            && let Some(guest) = self.guest.take()
        {
            if let Some(context) = self.context.take() {
                tokio::spawn(run_on(context, guest));
            }
            return self.end();
        }
        match &self.outcome {
            Some(Err(fault)) if !self.body_ended => {
                let fault = fault.clone();
                self.break_off(fault)
            }
            Some(outcome) if self.body_ended => {
                let short = self.announced.filter(|announced| self.sent < *announced);
                match (outcome, short) {
                    (Ok(()), Some(announced)) => self.break_off(wrong_length(announced, self.sent)),
                    _ => {
                        let fault = outcome.clone().err();
                        self.close(fault);
                        self.end()
                    }
                }
            }
            _ => match self.poll_timeouts(task) {
                Some(fault) => self.break_off(fault),
                None => Poll::Pending,
            },
        }
    }

    /// Returns the trailers that may be forwarded, or the end. The stream is closed.
    fn end(&mut self) -> PolledFrame {
        let Some(mut trailers) = self.trailers.take() else { return Poll::Ready(None) };
        clean(&mut trailers);
        let is_wanted = self.announced.is_none() && !trailers.is_empty();
        Poll::Ready(is_wanted.then(|| Ok(Frame::trailers(trailers))))
    }

    fn restart_idle_timeout(&mut self) {
        if let Some(context) = &self.context {
            self.idle_timeout.as_mut().reset(Instant::now() + Duration::from_millis(context.limits.stream_idle_ms));
        }
    }

    /// Returns the fault if a time limit has passed.
    fn poll_timeouts(&mut self, task: &mut Context<'_>) -> Option<Fault> {
        let limits = self.context.as_ref()?.limits;
        if self.idle_timeout.as_mut().poll(task).is_ready() {
            let limit_ms = limits.stream_idle_ms;
            return Some(time_limit_fault(&limits, "sent nothing for too long", "stream_idle_ms", limit_ms));
        }
        if self.total_timeout.as_mut().poll(task).is_ready() {
            let limit_ms = limits.stream_ms;
            return Some(time_limit_fault(&limits, "streamed for too long", "stream_timeout_ms", limit_ms));
        }
        None
    }

    /// Closes the stream with an error.
    fn break_off(&mut self, fault: Fault) -> PolledFrame {
        let detail = fault.detail.clone();
        self.close(Some(fault));
        Poll::Ready(Some(Err(StreamError(detail))))
    }

    /// Ends the guest and sends the receipt, once.
    fn close(&mut self, fault: Option<Fault>) {
        self.guest = None;
        if let Some(context) = self.context.take() {
            tokio::spawn(context.send_receipt(fault));
        }
    }
}

impl Body for StreamingBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> PolledFrame {
        self.poll(task)
    }
}

impl Drop for StreamingBody {
    fn drop(&mut self) {
        match (self.bytes_left(), self.guest.take(), self.context.take()) {
            // Everything was sent, so the guest may run on.
            (Some(0), Some(guest), Some(context)) => drop(tokio::spawn(run_on(context, guest))),
            // Otherwise the client has disconnected.
            (_, _, context) => {
                self.context = context;
                self.close(None);
            }
        }
    }
}
