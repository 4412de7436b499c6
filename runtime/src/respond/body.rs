//! The body of every response: a few bytes, an event stream, or a function's answer on its way.

use crate::front::Watched;
use crate::openai::keep_alive::Waiting;
use crate::pool::Relay;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// See the module.
#[derive(Debug)]
pub struct ResponseBody {
    inner: Inner,
    /// The line of the access log that this body's end will write.
    watched: Option<Box<Watched>>,
}

#[derive(Debug)]
enum Inner {
    Full(Bytes),
    Events(mpsc::Receiver<Bytes>),
    Relay(Box<Relay>),
    Waiting(Box<Waiting>),
}

/// A function's answer that broke off. The connection is closed, since the head has left.
#[derive(Debug, thiserror::Error)]
#[error("the response broke off: {0}")]
pub struct BrokenOff(pub String);

impl ResponseBody {
    /// All of it.
    pub fn full(bytes: Bytes) -> Self {
        Self { inner: Inner::Full(bytes), watched: None }
    }

    /// Whatever comes over a channel, until it closes.
    pub fn events(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { inner: Inner::Events(receiver), watched: None }
    }

    /// The same, written into the access log when it has ended.
    pub fn watched(self, watched: Watched) -> Self {
        Self { watched: Some(Box::new(watched)), ..self }
    }

    fn poll_inner(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.inner {
            Inner::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Events(receiver) => receiver.poll_recv(context).map(|part| part.map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Relay(relay) => Pin::new(relay.as_mut()).poll_frame(context),
            Inner::Waiting(waiting) => waiting.poll(context),
        }
    }

    /// An answer that is still to come.
    pub fn waiting(waiting: Waiting) -> Self {
        Self { inner: Inner::Waiting(Box::new(waiting)), watched: None }
    }

    /// A function's answer.
    pub fn relay(relay: Relay) -> Self {
        Self { inner: Inner::Relay(Box::new(relay)), watched: None }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let polled = self.poll_inner(context);
        if let (Poll::Ready(Some(part)), Some(watched)) = (&polled, &mut self.watched) {
            match part {
                Ok(frame) => watched.sent(frame.data_ref().map_or(0, Bytes::len)),
                Err(_) => watched.broke_off(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Events(_) | Inner::Waiting(_) => false,
            Inner::Relay(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Events(_) | Inner::Waiting(_) => SizeHint::default(),
            Inner::Relay(relay) => relay.size_hint(),
        }
    }
}
