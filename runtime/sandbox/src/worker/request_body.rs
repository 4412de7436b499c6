//! The body of a request on its way to the guest.
//!
//! If it was not received completely, the front door closes the connection. Then the head of a response may not arrive
//! there, so the receipt in it must be sent in another way too.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use wasmtime_wasi_http::Error;

/// Whether the body was received completely.
pub(crate) type BodyComplete = Arc<AtomicBool>;

/// A body as the guest gets it.
#[derive(Debug)]
pub(crate) struct RequestBody {
    whole: Option<Bytes>,
    /// The parts of a body that is still being received, and its trailers.
    parts: Option<mpsc::Receiver<Frame<Bytes>>>,
    complete: BodyComplete,
}

impl RequestBody {
    /// A body that was received completely.
    pub(crate) fn whole(bytes: Bytes, complete: BodyComplete) -> Self {
        Self { whole: Some(bytes).filter(|bytes| !bytes.is_empty()), parts: None, complete }
    }

    /// A body that is still being received. When `parts` ends, `complete` says whether that was its end.
    pub(crate) fn streamed(parts: mpsc::Receiver<Frame<Bytes>>, complete: BodyComplete) -> Self {
        Self { whole: None, parts: Some(parts), complete }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(bytes) = self.whole.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(parts) = &mut self.parts else { return Poll::Ready(None) };
        match ready!(parts.poll_recv(context)) {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => {
                self.parts = None;
                let cut = !self.complete.load(Ordering::Relaxed);
                Poll::Ready(cut.then_some(Err(Error::ConnectionTerminated)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none() && self.parts.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.whole, &self.parts) {
            (_, Some(_)) => SizeHint::default(),
            (whole, None) => SizeHint::with_exact(whole.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}
