//! The body of a request on its way to the guest. It records whether it was received completely.
//!
//! If it was not, the front door closes the connection. Then the head of the response may not arrive there, so the
//! receipt in it must also be sent as a frame on the control socket.

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Whether the body was received completely.
pub(crate) type BodyComplete = Arc<AtomicBool>;

/// A body that records its end.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Incoming,
    complete: BodyComplete,
}

/// Starts to record whether the body of a request comes to its end.
pub(crate) fn track(request: Request<Incoming>) -> (Request<RequestBody>, BodyComplete) {
    let complete = BodyComplete::new(AtomicBool::new(request.body().is_end_stream()));
    let request = request.map(|body| RequestBody { body, complete: Arc::clone(&complete) });
    (request, complete)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.complete.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
