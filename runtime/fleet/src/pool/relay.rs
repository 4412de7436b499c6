//! The body of a response on its way to the client: the worker's body, the tab, and everything that is held
//! until the last byte is sent.

use crate::admitted::Admitted;
use crate::pool::claim::WorkerClaim;
use crate::pool::expected::{CUT_REPORT_WAIT_MAX, ExpectedReport};
use crate::pool::report;
use crate::pool::request::BodyState;
use crate::pool::worker::Connection;
use bytes::Bytes;
use gannet_base::body::{BrokenOff, ResponseBody};
use gannet_base::headers;
use gannet_base::refusal::Blame;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::AbortHandle;
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
    body: Incoming,
    open: SharedResponse,
    /// Timeout of the wait for the report frame. Set when the worker's body has ended and the frame has not arrived.
    ending: Option<Pin<Box<Sleep>>>,
    /// Whether a trailer is still to be sent.
    trailers: bool,
    /// Whether the whole body was passed on.
    finished: bool,
    watchdog: AbortHandle,
}

/// `None` once the tab is closed. Shared with the watchdog task, because the body of a client that stops reading is not
/// polled and cannot notice a timeout.
type SharedResponse = Arc<Mutex<Option<OpenResponse>>>;

#[derive(Debug)]
struct OpenResponse {
    admitted: Admitted,
    worker_claim: WorkerClaim,
    connection: Option<Connection>,
    source: ReportSource,
    claim_us: u64,
    sent: u64,
    request_body: Arc<BodyState>,
    tab_open_max: Duration,
    /// Whether the guest was ended before its response was complete.
    was_cut: bool,
}

/// The parts of a [`Relay`].
pub(crate) struct RelayParts {
    pub(crate) body: Incoming,
    pub(crate) admitted: Admitted,
    pub(crate) worker_claim: WorkerClaim,
    pub(crate) connection: Connection,
    pub(crate) source: ReportSource,
    pub(crate) claim_us: u64,
    pub(crate) request_body: Arc<BodyState>,
    pub(crate) tab_open_max: Duration,
}

fn take(open: &SharedResponse) -> Option<OpenResponse> {
    open.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl OpenResponse {
    /// Records why the response is incomplete, and closes the connection to the worker, which ends the guest.
    fn cut(&mut self, error: &str, detail: Option<String>, blame: Blame) {
        if let Some(connection) = self.connection.take() {
            connection.cut();
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
            let tab_open_max = if self.was_cut { CUT_REPORT_WAIT_MAX } else { self.tab_open_max };
            let Self { mut admitted, worker_claim, claim_us, .. } = Self { source: ReportSource::Known, ..self };
            tokio::spawn(async move {
                match expected.wait(tab_open_max).await {
                    Some(work) => report::record(&mut admitted.tab, work, worker_claim.worker(), claim_us),
                    None => report::record_lost(&mut admitted.tab, worker_claim.worker()),
                }
                drop(worker_claim);
            });
        }
    }
}

/// Ends a response that its client does not read, because others want its permits, its instance and the instance's
/// memory.
async fn watch(open: SharedResponse, longest: Duration) {
    tokio::time::sleep(longest).await;
    if let Some(mut open) = take(&open) {
        let detail = format!("the client had not read the whole response after {} ms", longest.as_millis());
        open.cut("client_too_slow", Some(detail), Blame::Caller);
        open.close();
    }
}

impl Relay {
    pub(crate) fn new(parts: RelayParts) -> Self {
        let RelayParts { body, admitted, worker_claim, connection, source, claim_us, request_body, tab_open_max } =
            parts;
        // A body of known length ends with its last byte and has no trailer.
        let trailers = matches!(source, ReportSource::Frame(_)) && body.size_hint().exact().is_none();
        let connection = Some(connection);
        let open = OpenResponse {
            admitted,
            worker_claim,
            connection,
            source,
            claim_us,
            sent: 0,
            request_body,
            tab_open_max,
            was_cut: false,
        };
        let open = Arc::new(Mutex::new(Some(open)));
        let watchdog = tokio::spawn(watch(Arc::clone(&open), tab_open_max)).abort_handle();
        Self { body, open, ending: None, trailers, finished: false, watchdog }
    }

    /// Handles the end of the worker's body: waits for the report if it has not arrived yet, then closes the tab.
    fn end(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let timing = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(open) = &mut *open else { return Poll::Ready(None) };
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
        if !std::mem::take(&mut self.trailers) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&timing) {
            trailers.insert(headers::SERVER_TIMING, value);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn close(&mut self) {
        self.finished = true;
        self.watchdog.abort();
        if let Some(open) = take(&self.open) {
            open.close();
        }
    }

    fn cut(&mut self, error: &str, detail: Option<String>, blame: Blame) {
        self.watchdog.abort();
        if let Some(mut open) = take(&self.open) {
            open.cut(error, detail, blame);
            open.close();
        }
    }

    fn is_open(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_some()
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
        loop {
            if self.finished {
                return Poll::Ready(None);
            }
            if !self.is_open() {
                return Poll::Ready(Some(Err(BrokenOff("the response was ended".into()))));
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Some(data) = frame.data_ref() else { continue };
                    let length = data.len() as u64;
                    if let Some(open) = &mut *self.open.lock().unwrap_or_else(PoisonError::into_inner) {
                        open.sent += length;
                    }
                    // hyper drops a body of known length without polling for its end.
                    if !self.trailers && self.body.is_end_stream() {
                        self.close();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    let detail = error.to_string();
                    self.cut("response_broken_off", Some(detail.clone()), Blame::Function);
                    return Poll::Ready(Some(Err(BrokenOff(detail))));
                }
                Poll::Ready(None) => return self.end(context),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.trailers && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns the body of the client's response.
pub(crate) fn body(parts: RelayParts) -> ResponseBody {
    let mut relay = Relay::new(parts);
    if relay.is_end_stream() {
        // An empty body is never polled.
        relay.close();
    }
    relay.boxed_unsync()
}
