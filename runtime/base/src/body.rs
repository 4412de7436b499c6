//! The body of every response: a few bytes, an event stream, or a function's answer on its way to the client.

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The body of a response.
pub type ResponseBody = UnsyncBoxBody<Bytes, BrokenOff>;

/// A function's answer that broke off. The connection is closed, since the head has left.
#[derive(Debug, thiserror::Error)]
#[error("the response broke off: {0}")]
pub struct BrokenOff(pub String);

/// A body whose bytes are all known.
pub fn full(bytes: Bytes) -> ResponseBody {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body of whatever comes over a channel, until it closes.
pub fn events(receiver: mpsc::Receiver<Bytes>) -> ResponseBody {
    Events(receiver).boxed_unsync()
}

struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.0.poll_recv(context).map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }
}
