//! The body of a response to the front door: complete, or streamed while its guest runs.
//!
//! It does not decide anything: a complete body is one frame, and a streaming one is polled.

use crate::worker::response::streaming::{StreamError, StreamingBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The body of a response to the front door.
pub(crate) enum ResponseBody {
    /// The whole body.
    Complete(Bytes),
    /// The part that was gathered, and the guest that produces the rest.
    Streaming(Box<StreamingBody>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut *self {
            Self::Complete(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Complete(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streaming(streaming) => streaming.poll(task),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Complete(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Complete(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streaming(_) => SizeHint::default(),
        }
    }
}
