//! One exchange with a worker: claim, send, answer.
//!
//! ```text
//!  claim a seat and a connection ─▶ send the rebuilt request ─▶ head ─▶ relay of the body
//!        │ deadline: 504               │ body cut: 408 413        └ the worker says that the guest failed: 502 504
//!        └ no worker: 503              │ no answer in time: the worker is killed, 502
//!                                      │ its worker ended: once more, if that can do no harm (`retry`), else 502
//!                                      └ client gone: the bill comes later (`expected`)
//! ```

use crate::admitted::{Admitted, Style, Target};
use crate::inbound::Inbound;
use crate::pool::claim::ClaimedSeat;
use crate::pool::expected::{CUT_MAX, ClientGone, ExpectedReport};
use crate::pool::relay::WorkSource;
use crate::pool::request::{BodyState, RequestBody};
use crate::pool::retry::{ResendableRequest, RetryOnce};
use crate::pool::worker::Connection;
use crate::pool::{Pool, PoolError, head, relay, report, request};
use gannet_base::body::ResponseBody;
use gannet_base::hop::{WorkReport, header};
use gannet_base::manifest::Limits;
use gannet_base::refusal::Refusal;
use http::{Request, Response};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much later than its deadline a worker may answer that the deadline has passed.
const LATE_MAX: Duration = Duration::from_secs(1);

/// A request without an answer of its function. Its tab is still open: what the client is told goes on it.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub refusal: Refusal,
    /// What it holds.
    pub admitted: Admitted,
}

impl Failed {
    fn new(error: PoolError, admitted: Admitted) -> Box<Self> {
        Box::new(Self { refusal: error.into(), admitted })
    }
}

/// Everything that is held while a request is with its worker.
struct InExchange {
    admitted: Admitted,
    seated: ClaimedSeat,
    expected: ExpectedReport,
    connection: Connection,
    claim_us: u64,
    request_body: Arc<BodyState>,
    late: Duration,
}

/// How long a tab stays open for a guest that runs on after its answer, or was cut off.
fn late(limits: &Limits) -> Duration {
    Duration::from_millis(limits.stream_timeout_ms) + Duration::from_secs(15)
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Pool {
    /// Sends the request to a worker and its answer back.
    pub async fn call(
        &self,
        inbound: Inbound,
        target: Target,
        mut admitted: Admitted,
    ) -> Result<Response<ResponseBody>, Box<Failed>> {
        let version = Arc::clone(&target.version);
        let limits = &version.limits;
        let deadline = tokio::time::Instant::from_std(inbound.arrived + Duration::from_millis(limits.timeout_ms));
        if let Err(error) = self.check_kills(&version) {
            return Err(Failed::new(error, admitted));
        }
        let mut claimed_at = Instant::now();
        let (mut seated, mut connection) = match self.seat_by(&version, deadline).await {
            Ok(claimed) => claimed,
            Err(error) => return Err(Failed::new(error, admitted)),
        };
        let id = inbound.id;
        let body_max = limits.body_mib.saturating_mul(1 << 20);
        let (mut request, mut request_body) = request::rebuild(inbound, target.path, version.key, body_max);
        let style = target.style;
        let mut retry = RetryOnce::of(&request);
        loop {
            let (kind, capacity_us) =
                (seated.kind, u64::try_from(seated.capacity_wait.as_micros()).unwrap_or(u64::MAX));
            let (class, price) = self.price(seated.worker());
            admitted.tab.runs_on(class, price, seated.worker().unbilled());
            admitted.tab.note(|receipt| {
                receipt.start = Some(kind);
                receipt.capacity_us += capacity_us;
            });
            // The registration with an earlier worker ends first.
            admitted.outbound = None;
            admitted.outbound = seated.worker().begin_egress(&version, id);
            let outbound = admitted.outbound.as_ref().map(|registration| Arc::clone(registration.counter()));
            admitted.tab.count_outbound(outbound.clone());
            let expected = ExpectedReport::new(&seated, id);
            let claim_us = microseconds(claimed_at);
            let held =
                InExchange { admitted, seated, expected, connection, claim_us, request_body, late: late(limits) };
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            request::set_deadline(&mut request, left);
            let ended = match self.send(held, request, id, left + LATE_MAX).await {
                Ok((answer, held)) => return relayed(answer, held, id, style),
                Err(SendError::Refused(failed)) => return Err(failed),
                Err(SendError::Ended(ended)) => ended,
            };
            let why = self.note_kill(&version, ended.seated.worker()).await;
            let mut ended = ended;
            report::record_lost(&mut ended.admitted.tab, ended.seated.worker());
            let affected = outbound.is_some_and(|counter| counter.has_called());
            let never = ended.hung || affected || ended.seated.worker().overstayed();
            let next = if never { None } else { retry.take(ended.unsent) };
            admitted = ended.admitted;
            drop(ended.seated);
            let Some((next, body)) = next else { return Err(Failed::new(PoolError::Killed(why), admitted)) };
            tracing::info!(request = %id, why, "a worker ended; the request is sent to another");
            (request, request_body) = (next, body);
            claimed_at = Instant::now();
            (seated, connection) = match self.seat_by(&version, deadline).await {
                Ok(claimed) => claimed,
                Err(error) => return Err(Failed::new(error, admitted)),
            };
        }
    }

    /// Sends, and waits for the head. When this is dropped in between, the client has left.
    async fn send(
        &self,
        held: InExchange,
        request: Request<RequestBody>,
        id: gannet_base::names::RequestId,
        longest: Duration,
    ) -> Result<(Response<Incoming>, InExchange), SendError> {
        let InExchange { admitted, seated, expected, mut connection, claim_us, request_body, late } = held;
        let sending = Box::pin(async move {
            let sent = connection.send(request).await;
            (connection, sent)
        });
        let mut abandoned = ClientGone { id, claim_us, held: Some((admitted, seated, expected, sending)) };
        let sent = match &mut abandoned.held {
            Some((_, _, _, sending)) => tokio::time::timeout(longest, sending.as_mut()).await,
            None => unreachable!("only a dropped future takes it"),
        };
        let Some((mut admitted, seated, expected, sending)) = abandoned.held.take() else {
            unreachable!("only a dropped future takes it")
        };
        let (hung, unsent) = match sent {
            Ok((connection, Ok(answer))) => {
                return Ok((
                    answer,
                    InExchange { admitted, seated, expected, connection, claim_us, request_body, late },
                ));
            }
            // Its connection ends here, and with it a guest that has begun.
            Ok((connection, Err(unsent))) => {
                connection.cut();
                (false, unsent)
            }
            Err(_) => (true, None),
        };
        drop(sending);
        if let Some(refused) = request_body.refused() {
            // What the guest has done until then is on the bill.
            match expected.wait(CUT_MAX).await {
                Some(work) => report::record(&mut admitted.tab, work, seated.worker(), claim_us),
                None => report::record_lost(&mut admitted.tab, seated.worker()),
            }
            if let Some(rest) = request_body.rest() {
                crate::inbound::discard(rest).await;
            }
            return Err(SendError::Refused(Failed::new(PoolError::Request(refused), admitted)));
        }
        if hung {
            // It has missed its deadline by a second: it hangs, and takes its tenant's other requests with it.
            self.end(seated.worker(), "it missed a request's deadline by a second");
        }
        let unsent = unsent.map(|request| (*request, request_body));
        Err(SendError::Ended(Box::new(WorkerEnded { admitted, seated, hung, unsent })))
    }
}

/// Why there is no answer.
enum SendError {
    /// The request was refused on its way.
    Refused(Box<Failed>),
    /// The worker ended.
    Ended(Box<WorkerEnded>),
}

/// What is left of a request whose worker ended.
struct WorkerEnded {
    admitted: Admitted,
    seated: ClaimedSeat,
    /// Whether it had to be ended because it did not answer in time.
    hung: bool,
    /// The request, if nothing of it was sent.
    unsent: Option<ResendableRequest>,
}

/// Turns the worker's answer into the client's.
fn relayed(
    answer: Response<Incoming>,
    held: InExchange,
    id: gannet_base::names::RequestId,
    style: Style,
) -> Result<Response<ResponseBody>, Box<Failed>> {
    let InExchange { mut admitted, seated, mut expected, connection, claim_us, request_body, late } = held;
    let (mut parts, body) = answer.into_parts();
    let known: Option<WorkReport> =
        parts.headers.remove(header::WORK).and_then(|value| serde_json::from_slice(value.as_bytes()).ok());
    let source = match known {
        Some(work) => {
            let fault = work.fault.clone();
            report::record(&mut admitted.tab, work, seated.worker(), claim_us);
            if let Some(fault) = fault.filter(|_| head::is_fault(&parts.headers)) {
                // Read to its end: the answer has no body.
                if request_body.is_done() {
                    seated.worker().give_back(connection);
                }
                return Err(Failed::new(fault.into(), admitted));
            }
            WorkSource::Known
        }
        None => WorkSource::Frame(expected.take()),
    };
    admitted.tab.note(|receipt| receipt.status = parts.status.as_u16());
    head::finish(&mut parts.headers, &source, &admitted.tab, seated.kind, (id, style));
    let relayed = relay::Parts { body, admitted, seated, connection, source, claim_us, request_body, late };
    Ok(Response::from_parts(parts, relay::body(relayed)))
}
