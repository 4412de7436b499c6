//! A request's body on its way to the guest, which remembers whether it came to its end.
//!
//! When it does not, the front door has closed the connection, or will: then an answer's head does not arrive there, nor the receipt
//! in it, which must go another way.

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Whether a body came to its end.
pub(crate) type Whole = Arc<AtomicBool>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Received {
    body: Incoming,
    whole: Whole,
}

/// Watches the body of a request.
pub(crate) fn watch(request: Request<Incoming>) -> (Request<Received>, Whole) {
    let whole = Whole::new(AtomicBool::new(request.body().is_end_stream()));
    let watched = request.map(|body| Received { body, whole: Arc::clone(&whole) });
    (watched, whole)
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.whole.store(true, Ordering::Relaxed);
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
