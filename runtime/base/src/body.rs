//! The body of every response to a client: a buffer of bytes, an event stream, or the relayed body of a function's
//! response.

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The body of a response to a client.
pub type ResponseBody = UnsyncBoxBody<Bytes, BrokenOff>;

/// A function's response body that ended too early. The connection is closed, because the head has been sent.
#[derive(Debug, thiserror::Error)]
#[error("the response broke off: {0}")]
pub struct BrokenOff(pub String);

/// Returns a body of these bytes.
pub fn full(bytes: Bytes) -> ResponseBody {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Returns a body that streams what `receiver` yields and ends when its channel closes.
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
