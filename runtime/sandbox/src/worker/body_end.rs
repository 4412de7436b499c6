//! Tells a guest's future how the body of its response ends: whether it was read to its end, or whether the guest has
//! exited before it had finished it.

use bytes::Bytes;
use gannet_base::headers::announced_length;
use gannet_base::hop::heads::may_have_body;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::watch;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// The guest's end: waits for the end of the body.
pub(super) struct BodyEnd {
    /// Whether the body is complete, once that is known.
    complete: watch::Receiver<Option<bool>>,
    exited: Arc<AtomicBool>,
}

/// The body's end, which goes to the body as soon as there is one.
pub(super) struct BodyEndSignal {
    complete: watch::Sender<Option<bool>>,
    exited: Arc<AtomicBool>,
}

/// Returns both ends.
pub(super) fn body_end() -> (BodyEndSignal, BodyEnd) {
    let (sender, receiver) = watch::channel(None);
    let exited = Arc::<AtomicBool>::default();
    (BodyEndSignal { complete: sender, exited: Arc::clone(&exited) }, BodyEnd { complete: receiver, exited })
}

impl BodyEnd {
    /// Waits until the body was read to its end or dropped.
    pub(super) async fn passed(&mut self) {
        // An error means that the body was dropped.
        let _ = self.complete.wait_for(Option::is_some).await;
    }

    /// Tells the body that its guest has exited, and waits until what the guest has written was read. Returns whether the
    /// body is complete.
    pub(super) async fn passed_after_exit(&mut self) -> bool {
        self.exited.store(true, Ordering::Relaxed);
        // The task polls the body once more.
        tokio::task::yield_now().await;
        match self.complete.wait_for(Option::is_some).await {
            Ok(complete) => complete.unwrap_or(true),
            // All bytes that were announced were sent, or the client left.
            Err(_) => true,
        }
    }
}

impl BodyEndSignal {
    /// Attaches the signal to the body of a response. `wants_body` says whether the request's method lets it have one.
    pub(super) fn attach(self, response: Response<HyperOutgoingBody>, wants_body: bool) -> Response<HyperOutgoingBody> {
        let announced = announced_length(response.headers()).ok().flatten();
        let announced = if wants_body && may_have_body(response.status()) { announced } else { Some(0) };
        response.map(|body| SignallingBody { body, signal: self, announced, received: 0 }.boxed_unsync())
    }
}

struct SignallingBody {
    body: HyperOutgoingBody,
    signal: BodyEndSignal,
    /// The length that the head announces (0 for a response without a body), and the bytes so far.
    announced: Option<u64>,
    received: u64,
}

impl Body for SignallingBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled =
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.received += frame.data_ref().map_or(0, Bytes::len) as u64;
                    return Poll::Ready(Some(Ok(frame)));
                }
                // Nothing is left of what the guest has written, and nothing will follow.
                Poll::Pending if self.signal.exited.load(Ordering::Relaxed) => {
                    if self.announced == Some(self.received) { Poll::Ready(None) } else { Poll::Pending }
                }
                other @ (Poll::Pending | Poll::Ready(Some(Err(_)))) => return other,
                Poll::Ready(None) => Poll::Ready(None),
            };
        self.signal.complete.send_replace(Some(polled.is_ready()));
        polled
    }

    fn is_end_stream(&self) -> bool {
        // The signal needs the poll that returns `None`, so that poll must not be skipped.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
