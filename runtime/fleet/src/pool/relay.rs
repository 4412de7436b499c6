//! The body of a response on its way to the client: the worker's body, the tab, and everything that is held
//! until the last byte is sent.

use crate::admitted::{AddressingStyle, Admitted};
use crate::pool::allowed_headers::may_pass;
use crate::pool::claim::WorkerClaim;
use crate::pool::connection::Connection;
use crate::pool::error::PoolError;
use crate::pool::expected::ExpectedReport;
use crate::pool::report;
use crate::pool::request::BodyState;
use crate::pool::slow_clients::{Overdue, SlowClients, WatchGuard};
use bytes::Bytes;
use gannet_base::body::{BrokenOff, ResponseBody};
use gannet_base::headers;
use gannet_base::quota::account::ReachedCap;
use gannet_base::refusal::{Blame, Refusal};
use gannet_base::trailers;
use gannet_state::registry::Registry;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// How long the end of a streamed response waits for the worker's report.
const REPORT_WAIT_MAX: Duration = Duration::from_millis(500);

/// Where the worker's report comes from.
#[derive(Debug)]
pub(crate) enum ReportSource {
    /// It was in the head of the response, and is already on the tab.
    Known,
    /// It arrives as a frame on the control socket.
    Frame(ExpectedReport),
}

/// The body that the client gets.
#[derive(Debug)]
pub struct Relay {
    /// Bytes that are still to be passed on, if the length is known.
    left: Option<u64>,
    open: Arc<SharedResponse>,
    /// Timeout of the wait for the report frame. Set when the worker's body has ended and the frame has not arrived.
    ending: Option<Pin<Box<Sleep>>>,
    /// Whether the server's own trailer is still to be sent.
    own_trailer: bool,
    /// The guest's trailers, once they have arrived. None if the length is known: then nothing follows the body.
    guest_trailers: Option<HeaderMap>,
    style: AddressingStyle,
    /// Whether the whole body was passed on.
    finished: bool,
    /// Ends the response if its client does not read it in time. `None` once the tab is closed.
    watched: Option<WatchGuard<SharedResponse>>,
}

/// `None` once the tab is closed. Shared with the task that ends responses which their clients do not read.
#[derive(Debug)]
pub(crate) struct SharedResponse(Mutex<Option<OpenResponse>>);

impl SharedResponse {
    fn lock(&self) -> MutexGuard<'_, Option<OpenResponse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Overdue for SharedResponse {
    fn untaken_since(&self) -> Option<Instant> {
        let open = self.lock();
        let open = open.as_ref()?;
        open.reader.is_none().then_some(open.taken)
    }

    fn lost_access(&self) -> Option<(&'static str, String)> {
        let open = self.lock();
        let open = open.as_ref()?;
        // A request whose report is on its tab uses nothing more while its response is sent.
        if let Some(cap) = open.used_up().filter(|_| matches!(open.source, ReportSource::Frame(_))) {
            let refusal = Refusal::from(PoolError::UsedUp { cap });
            return Some((refusal.code, refusal.public));
        }
        let key = open.admitted.key.as_ref()?;
        let refusal = Refusal::from(PoolError::KeyRevoked);
        (!open.registry.snapshot().accepts(key)).then_some((refusal.code, refusal.public))
    }

    fn end_access(&self, code: &'static str, detail: String) {
        self.end_with(code, |_| detail.clone());
    }

    fn end(&self, longest: Duration) {
        self.end_with("client_too_slow", |open| {
            if open.reader.is_none() && open.taken.elapsed() >= open.times.idle {
                format!("the client took nothing of the response for {} ms", open.times.idle.as_millis())
            } else {
                format!("the client had not read the whole response after {} ms", longest.as_millis())
            }
        });
    }
}

impl SharedResponse {
    /// Ends the response by the caller's fault, with an error and its details.
    fn end_with(&self, error: &str, detail: impl Fn(&OpenResponse) -> String) {
        let taken = self.lock().take();
        if let Some(mut open) = taken {
            let detail = detail(&open);
            let reader = open.reader.take();
            open.cut(error, Some(detail), Blame::Caller);
            open.close();
            // It waits for a connection that is closed now.
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }
}

#[derive(Debug)]
struct OpenResponse {
    admitted: Admitted,
    /// Knows which keys are valid.
    registry: Arc<Registry>,
    worker_claim: WorkerClaim,
    connection: Option<Connection>,
    source: ReportSource,
    claim_us: u64,
    sent: u64,
    request_body: Arc<BodyState>,
    times: ResponseTimes,
    /// Whether the guest was ended before its response was complete.
    was_cut: bool,
    /// Wakes the task that waits for more of the response. None while the client has not asked for more.
    reader: Option<Waker>,
    /// When the client last took something.
    taken: Instant,
}

/// How long a response may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseTimes {
    /// How long the tab stays open after the head: for the body, and for a guest that runs on after it.
    pub(crate) open: Duration,
    /// How long the client may take nothing.
    pub(crate) idle: Duration,
}

/// The parts of a [`Relay`].
pub(crate) struct RelayParts {
    /// The length of the body, if it is known.
    pub(crate) length: Option<u64>,
    pub(crate) admitted: Admitted,
    pub(crate) registry: Arc<Registry>,
    pub(crate) worker_claim: WorkerClaim,
    pub(crate) connection: Connection,
    pub(crate) source: ReportSource,
    pub(crate) claim_us: u64,
    pub(crate) request_body: Arc<BodyState>,
    pub(crate) times: ResponseTimes,
    pub(crate) style: AddressingStyle,
}

impl OpenResponse {
    /// Returns the cap that the tenant has reached.
    fn used_up(&self) -> Option<ReachedCap> {
        self.admitted.tab.reservation().reached()
    }

    /// Records why the response is incomplete, and closes the connection to the worker, which ends the guest.
    fn cut(&mut self, error: &str, detail: Option<String>, blame: Blame) {
        if let Some(connection) = self.connection.take() {
            drop(connection);
        }
        self.was_cut = true;
        self.admitted.tab.update_receipt(|receipt| {
            receipt.error = Some(error.to_owned());
            receipt.error_detail = detail;
            receipt.fault = Some(blame);
        });
    }

    fn close(mut self) {
        let (sent, received) = (self.sent, self.request_body.bytes());
        self.admitted.tab.update_receipt(|receipt| {
            receipt.bytes_out = sent;
            receipt.bytes_in = received;
        });
        // A connection that still sends a body would make the next request wait for it.
        if self.request_body.is_done()
            && let Some(connection) = self.connection.take()
        {
            self.worker_claim.worker().give_back(connection);
        }
        if let ReportSource::Frame(expected) = self.source {
            // The guest runs on or is being ended, so its report comes later.
            let (was_cut, longest) = (self.was_cut, self.times.open);
            let Self { mut admitted, worker_claim, claim_us, .. } = Self { source: ReportSource::Known, ..self };
            let reservation = Arc::clone(admitted.tab.reservation());
            tokio::spawn(async move {
                let (work, cap) = match was_cut {
                    // Closing the connection does not end a guest that has sent its whole response.
                    true => (expected.stop().await, None),
                    false => expected.wait_or_stop(longest, &reservation).await,
                };
                match work {
                    Some(work) => report::record(&mut admitted.tab, work, worker_claim.worker(), claim_us),
                    None => report::record_lost(&mut admitted.tab, worker_claim.worker()),
                }
                if let Some(cap) = cap {
                    let refusal = Refusal::from(PoolError::UsedUp { cap });
                    admitted.tab.update_receipt(|receipt| receipt.fail(&refusal));
                }
                drop(worker_claim);
            });
        }
    }
}

impl Relay {
    pub(crate) fn new(parts: RelayParts, clients: &Arc<SlowClients<SharedResponse>>) -> Self {
        let RelayParts { length, admitted, registry, worker_claim, connection, source, .. } = parts;
        let RelayParts { claim_us, request_body, times, style, .. } = parts;
        // A body of known length ends with its last byte and has no trailer.
        let own_trailer = matches!(source, ReportSource::Frame(_)) && length.is_none();
        let connection = Some(connection);
        let open = OpenResponse {
            admitted,
            registry,
            worker_claim,
            connection,
            source,
            claim_us,
            sent: 0,
            request_body,
            times,
            was_cut: false,
            reader: None,
            taken: Instant::now(),
        };
        let open = Arc::new(SharedResponse(Mutex::new(Some(open))));
        let watched = Some(clients.watch(&open, times.open, times.idle));
        let guest_trailers = None;
        Self { left: length, open, ending: None, own_trailer, guest_trailers, style, finished: false, watched }
    }

    /// Handles the end of the worker's body: waits for the report if it has not arrived yet, then closes the tab.
    fn end(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let timing = {
            let mut open = self.open.lock();
            let Some(open) = &mut *open else { return Poll::Ready(None) };
            // The client has taken everything; the report is awaited.
            open.reader = Some(context.waker().clone());
            if let ReportSource::Frame(expected) = &mut open.source {
                match expected.poll(context) {
                    Poll::Ready(work) => {
                        open.source = ReportSource::Known;
                        match work {
                            Some(work) => {
                                report::record(&mut open.admitted.tab, work, open.worker_claim.worker(), open.claim_us)
                            }
                            None => report::record_lost(&mut open.admitted.tab, open.worker_claim.worker()),
                        }
                    }
                    Poll::Pending => {
                        let wait = self.ending.get_or_insert_with(|| Box::pin(tokio::time::sleep(REPORT_WAIT_MAX)));
                        if wait.as_mut().poll(context).is_pending() {
                            return Poll::Pending;
                        }
                    }
                }
            }
            open.admitted.tab.server_timing()
        };
        self.close();
        let mut trailers = self.guest_trailers.take().unwrap_or_default();
        if std::mem::take(&mut self.own_trailer)
            && let Some(value) = timing
        {
            trailers.insert(headers::SERVER_TIMING, value);
        }
        Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
    }

    /// Keeps the guest's trailers for the end of the body.
    fn take_trailers(&mut self, mut trailers: HeaderMap) {
        trailers::clean(&mut trailers);
        let refused: Vec<_> = trailers.keys().filter(|name| !may_pass(name, self.style)).cloned().collect();
        for name in refused {
            trailers.remove(name);
        }
        self.guest_trailers = Some(trailers).filter(|_| self.left.is_none());
    }

    fn close(&mut self) {
        self.finished = true;
        self.watched = None;
        let open = self.open.lock().take();
        if let Some(open) = open {
            open.close();
        }
    }

    fn cut(&mut self, error: &str, detail: Option<String>, blame: Blame) {
        self.watched = None;
        let open = self.open.lock().take();
        if let Some(mut open) = open {
            open.cut(error, detail, blame);
            open.close();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Still open: the client left in the middle.
        self.cut("client_closed", None, Blame::Caller);
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ending.is_some() {
            return self.end(context);
        }
        if self.finished {
            return Poll::Ready(None);
        }
        let polled = {
            let mut open = self.open.lock();
            let Some(OpenResponse { connection: Some(connection), sent, reader, taken, .. }) = &mut *open else {
                return Poll::Ready(Some(Err(BrokenOff("the response was ended".into()))));
            };
            let Poll::Ready(polled) = connection.poll_frame(context) else {
                *reader = Some(context.waker().clone());
                return Poll::Pending;
            };
            (*reader, *taken) = (None, Instant::now());
            if let Ok(Some(frame)) = &polled {
                *sent += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            polled
        };
        match polled {
            Ok(Some(frame)) => {
                let data = match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.take_trailers(trailers);
                        }
                        // The end of the message follows.
                        return self.poll_frame(context);
                    }
                };
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                // hyper drops a body of known length without polling for its end.
                if self.left == Some(0) {
                    self.close();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Ok(None) => self.end(context),
            Err(error) => {
                let detail = error.to_string();
                self.cut("response_broken_off", Some(detail.clone()), Blame::Function);
                Poll::Ready(Some(Err(BrokenOff(detail))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.finished || self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// How the client learns where a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Number of bytes that the client gets, if it is known.
    pub(crate) length: Option<u64>,
    /// The value of `content-length`.
    pub(crate) announced: Option<u64>,
}

/// Decides how a response is framed. `has_body` is false for a response that cannot have a body, such as one to HEAD.
/// `data_left` is the number of bytes that the worker still sends, if that is known.
///
/// The guest's own `content-length` counts only if nothing else is known. If the client saw another length than the one
/// that is sent, it would take a part of this response for the beginning of the next, which may be another caller's.
pub(crate) fn framing(has_body: bool, data_left: Option<u64>, announced: Option<u64>) -> Framing {
    let length = data_left.or(announced);
    Framing { length, announced: if has_body { length } else { announced } }
}

/// Returns the body of the client's response.
pub(crate) fn body(parts: RelayParts, clients: &Arc<SlowClients<SharedResponse>>) -> ResponseBody {
    let mut relay = Relay::new(parts, clients);
    if relay.is_end_stream() {
        // An empty body is never polled.
        relay.close();
    }
    relay.boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_client_gets_as_many_bytes_as_its_head_says(
            has_body: bool, data_left: Option<u64>, announced: Option<u64>
        ) {
            let framing = framing(has_body, data_left, announced);
            if has_body {
                prop_assert_eq!(framing.announced, framing.length);
            }
            if let Some(data_left) = data_left {
                prop_assert_eq!(framing.length, Some(data_left));
            }
        }
    }
}
