//! A function's answer on its way to the client: the worker's body, the tab, and all that is held
//! until the last byte has left.

use crate::admit::Admitted;
use crate::hop::{FaultCode, Work};
use crate::meter::Tab;
use crate::pool::claim::Seated;
use crate::pool::expected::Expected;
use crate::pool::request::BodyState;
use crate::pool::worker::Connection;
use crate::respond::{Blame, BrokenOff, ResponseBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// How long the end of a streamed answer waits for its receipt.
const WORK_MAX: Duration = Duration::from_millis(500);

/// `server-timing`, as header or trailer.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A worker's words that are kept.
pub(crate) const DETAIL_CHARACTERS_MAX: usize = 2000;

/// Where the receipt of the worker comes from.
#[derive(Debug)]
pub(crate) enum WorkSource {
    /// It was in the head and is on the tab.
    Known,
    /// It comes as a frame.
    Frame(Expected),
}

/// See the module.
#[derive(Debug)]
pub struct Relay {
    body: Incoming,
    /// `None` once the tab is closed.
    open: Option<Open>,
    /// A frame's wait at the end, and whether the end was reached.
    ending: Option<Pin<Box<Sleep>>>,
    trailers: bool,
}

#[derive(Debug)]
struct Open {
    admitted: Admitted,
    seated: Seated,
    connection: Option<Connection>,
    source: WorkSource,
    claim_us: u64,
    sent: u64,
    request_body: Arc<BodyState>,
    late: Duration,
}

/// What a relay is made of.
pub(crate) struct Parts {
    pub(crate) body: Incoming,
    pub(crate) admitted: Admitted,
    pub(crate) seated: Seated,
    pub(crate) connection: Connection,
    pub(crate) source: WorkSource,
    pub(crate) claim_us: u64,
    pub(crate) request_body: Arc<BodyState>,
    pub(crate) late: Duration,
}

impl Relay {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { body, admitted, seated, connection, source, claim_us, request_body, late } = parts;
        // A body of announced length ends with its last byte and has no trailer.
        let trailers = matches!(source, WorkSource::Frame(_)) && body.size_hint().exact().is_none();
        let connection = Some(connection);
        let open = Open { admitted, seated, connection, source, claim_us, sent: 0, request_body, late };
        Self { body, open: Some(open), ending: None, trailers }
    }

    /// The end of the worker's body: takes the receipt if it must still come, then closes the tab.
    fn end(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        if let WorkSource::Frame(expected) = &mut open.source {
            match expected.poll(context) {
                Poll::Ready(work) => {
                    open.source = WorkSource::Known;
                    if let Some(work) = work {
                        apply(&mut open.admitted.tab, &work, open.claim_us);
                    }
                }
                Poll::Pending => {
                    let wait = self.ending.get_or_insert_with(|| Box::pin(tokio::time::sleep(WORK_MAX)));
                    if wait.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        let timing = open.admitted.tab.server_timing();
        self.close(None);
        if !std::mem::take(&mut self.trailers) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&timing) {
            trailers.insert(SERVER_TIMING, value);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn close(&mut self, broken: Option<String>) {
        let Some(mut open) = self.open.take() else { return };
        open.admitted.tab.note(|receipt| {
            receipt.bytes_out = open.sent;
            receipt.bytes_in = open.request_body.bytes();
        });
        let clean = broken.is_none();
        if let Some(detail) = broken {
            open.admitted.tab.note(|receipt| {
                receipt.error = Some("response_broken_off".into());
                receipt.error_detail = Some(detail);
                receipt.fault = Some(Blame::Function);
            });
        }
        // A connection that still sends a body would make the next request wait for it.
        if clean
            && open.request_body.is_done()
            && let Some(connection) = open.connection.take()
        {
            open.seated.worker().give_back(connection);
        }
        if let WorkSource::Frame(expected) = open.source {
            // The guest runs on, or is being ended: its bill comes later.
            let Open { mut admitted, seated, claim_us, late, .. } = Open { source: WorkSource::Known, ..open };
            tokio::spawn(async move {
                if let Some(work) = expected.wait(late).await {
                    apply(&mut admitted.tab, &work, claim_us);
                }
                drop(seated);
            });
        }
    }
}

/// Puts the worker's receipt on the tab.
pub(crate) fn apply(tab: &mut Tab, work: &Work, claim_us: u64) {
    tab.work(work, claim_us);
    if let Some(fault) = &work.fault {
        let detail: String = fault.detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        tab.note(|receipt| {
            receipt.error = Some(
                match fault.code {
                    FaultCode::DeadlineExceeded => "deadline_exceeded",
                    FaultCode::FunctionTrapped | FaultCode::MemoryLimit => "function_trapped",
                    FaultCode::Unavailable => "internal",
                }
                .into(),
            );
            receipt.error_detail = Some(detail);
            receipt.fault = Some(Blame::Function);
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(open) = &mut self.open {
            // The client left in the middle. The connection is not given back: dropping it tells
            // the worker to end the guest.
            open.connection = None;
            open.admitted.tab.note(|receipt| {
                receipt.error = Some("client_closed".into());
                receipt.fault = Some(Blame::Caller);
            });
            self.close(None);
        }
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ending.is_some() || self.open.is_none() {
            return self.end(context);
        }
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Some(data) = frame.data_ref() else { continue };
                    let length = data.len() as u64;
                    if let Some(open) = &mut self.open {
                        open.sent += length;
                    }
                    // hyper drops a body of known length without asking for its end.
                    if !self.trailers && self.body.is_end_stream() {
                        self.close(None);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    let detail = error.to_string();
                    if let Some(open) = &mut self.open {
                        open.connection = None;
                    }
                    self.close(Some(detail.clone()));
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

/// The response's body, made from a relay.
pub(crate) fn body(parts: Parts) -> ResponseBody {
    let mut relay = Relay::new(parts);
    if relay.is_end_stream() {
        // An empty body is never polled.
        relay.close(None);
    }
    ResponseBody::relay(relay)
}
