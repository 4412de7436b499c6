//! Reports to a guest's future how the body of its response ends: whether it was read to its end, or whether the guest has
//! exited before it had finished it.

use bytes::Bytes;
use futures::task::AtomicWaker;
use gannet_base::headers::announced_length;
use gannet_base::hop::heads::may_have_body;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// What the guest and its body share.
#[derive(Default)]
struct Shared {
    /// The guest has exited.
    exited: AtomicBool,
    /// The body was read to its end, dropped, or will never end.
    over: AtomicBool,
    /// The guest exited before it had finished the body.
    incomplete: AtomicBool,
    /// Wakes the guest when the body is over.
    guest: AtomicWaker,
}

/// The guest's end: waits for the end of the body.
pub(super) struct BodyEnd(Arc<Shared>);

/// The body's end, which goes to the body as soon as there is one.
pub(super) struct BodyEndSignal(Arc<Shared>);

/// Returns both ends.
pub(super) fn body_end() -> (BodyEndSignal, BodyEnd) {
    let shared = Arc::<Shared>::default();
    (BodyEndSignal(Arc::clone(&shared)), BodyEnd(shared))
}

impl BodyEnd {
    /// Waits until the body was read to its end or dropped.
    pub(super) async fn passed(&self) {
        std::future::poll_fn(|context| {
            self.0.guest.register(context.waker());
            if self.0.over.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Notifies the body that its guest has exited, and waits until what the guest has written was read. Returns whether the
    /// body is complete. If it was dropped, all bytes that were announced were sent, or the client left.
    pub(super) async fn passed_after_exit(&self) -> bool {
        self.0.exited.store(true, Ordering::Release);
        // The task polls the body once more.
        tokio::task::yield_now().await;
        self.passed().await;
        !self.0.incomplete.load(Ordering::Acquire)
    }
}

impl BodyEndSignal {
    /// Attaches the signal to the body of a response. `wants_body` says whether the request's method lets it have one.
    pub(super) fn attach(self, response: Response<HyperOutgoingBody>, wants_body: bool) -> Response<OutgoingBody> {
        let announced = announced_length(response.headers()).ok().flatten();
        let announced = if wants_body && may_have_body(response.status()) { announced } else { Some(0) };
        response.map(|body| OutgoingBody { body, signal: self, announced, received: 0 })
    }
}

impl Drop for BodyEndSignal {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
        self.0.guest.wake();
    }
}

/// The body of a guest's response. It signals its end.
pub(crate) struct OutgoingBody {
    body: HyperOutgoingBody,
    signal: BodyEndSignal,
    /// The length that the head announces (0 for a response without a body), and the bytes so far.
    announced: Option<u64>,
    received: u64,
}

impl OutgoingBody {
    fn end(&self, is_complete: bool) {
        let Shared { over, incomplete, guest, .. } = &*self.signal.0;
        incomplete.store(!is_complete, Ordering::Release);
        over.store(true, Ordering::Release);
        guest.wake();
    }
}

impl Body for OutgoingBody {
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
                Poll::Pending if self.signal.0.exited.load(Ordering::Acquire) => {
                    if self.announced == Some(self.received) { Poll::Ready(None) } else { Poll::Pending }
                }
                other @ (Poll::Pending | Poll::Ready(Some(Err(_)))) => return other,
                Poll::Ready(None) => Poll::Ready(None),
            };
        self.end(polled.is_ready());
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
