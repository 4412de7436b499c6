//! The body of any response, whose parts are counted while they wait for the client ([`crate::waiting_bytes`]).
//!
//! ```text
//!  nothing of this response waits ──────▶ the next part is fetched
//!  something waits, and there is room ──▶ the next part is fetched
//!  something waits, and a count is full ▶ nothing is fetched until nothing of this response waits
//! ```
//!
//! A part is counted until hyper has written it to the socket, or has dropped it with its stream. So a response whose
//! client reads goes on part by part, however full the counts are, and no response waits for another.

use crate::waiting_bytes::{CountedBytes, Recipient, WaitingBytes, WaitingLimits};
use bytes::Bytes;
use futures::task::AtomicWaker;
use gannet_base::body::{BrokenOff, ResponseBody};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Counts the parts of a response's body.
pub(super) fn count_parts(
    body: ResponseBody,
    waiting: &Arc<WaitingBytes>,
    recipient: Recipient,
    limits: WaitingLimits,
) -> ResponseBody {
    if body.is_end_stream() {
        return body;
    }
    let waiting = Arc::clone(waiting);
    CountedBody { body, waiting, recipient, limits, own: Arc::default() }.boxed_unsync()
}

/// The parts of one response that wait.
#[derive(Debug, Default)]
struct OwnParts {
    count: AtomicUsize,
    /// The task that waits until none waits any more.
    waker: AtomicWaker,
}

struct CountedBody {
    body: ResponseBody,
    waiting: Arc<WaitingBytes>,
    recipient: Recipient,
    limits: WaitingLimits,
    own: Arc<OwnParts>,
}

impl CountedBody {
    /// Waits until the next part may be fetched.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let has_room =
            || self.own.count.load(Ordering::Acquire) == 0 || self.waiting.has_room(&self.recipient, &self.limits);
        if has_room() {
            return Poll::Ready(());
        }
        self.own.waker.register(context.waker());
        // Again, because the last part may have been taken before the waker was registered.
        if has_room() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.poll_room(context).is_pending() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                let counted = self.waiting.count(&self.recipient, bytes.len() as u64);
                self.own.count.fetch_add(1, Ordering::AcqRel);
                Bytes::from_owner(Part { bytes, own: Arc::clone(&self.own), _counted: counted })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of a body that waits for the client.
struct Part {
    bytes: Bytes,
    own: Arc<OwnParts>,
    _counted: CountedBytes,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.own.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.own.waker.wake();
        }
    }
}
