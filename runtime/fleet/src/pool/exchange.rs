//! One exchange with a worker: claims it, sends the request and returns the response.
//!
//! ```text
//!  claim a worker and connection ─▶ send the rebuilt request ─▶ head ─▶ relay of the body
//!        │ deadline: 504               │ body cut: 408 413        └ the worker says that the guest failed: 502 504
//!        └ no worker: 503              │ no head in time: the worker is killed, 502
//!                                      │ its worker ended: once more, if that can do no harm (`retry`), else 502
//!                                      └ client gone: billed later (`expected`)
//! ```

use crate::admitted::{Admitted, Target};
use crate::calling::CallingRequest;
use crate::egress::EgressGrant;
use crate::inbound::FunctionRequest;
use crate::pool::claim::WorkerClaim;
use crate::pool::connection::Connection;
use crate::pool::expected::{AwaitedReport, CLIENT_GONE_GRACE, ClientGoneGuard, ExpectedReport};
use crate::pool::head::Place;
use crate::pool::relay::{ReportSource, ResponseTimes};
use crate::pool::request::{BodyState, HopRequest};
use crate::pool::retry::RetryOnce;
use crate::pool::worker::Worker;
use crate::pool::{Pool, PoolError, head, relay, report, request};
use gannet_base::body::ResponseBody;
use gannet_base::headers::announced_length;
use gannet_base::hop::RequestCaps;
use gannet_base::hop::heads::ResponseHead;
use gannet_base::manifest::FunctionLimits;
use gannet_base::quota::account::{ReachedCap, WorkTimes};
use gannet_base::refusal::Refusal;
use gannet_state::registry::Version;
use http::{HeaderValue, Method, Response};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after a request's deadline its worker may still report that the deadline has passed.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);
/// How long this process may take to read what a worker has sent.
const READ_GRACE: Duration = Duration::from_millis(100);
/// How much longer a worker may take that tells the progress of its requests: it is slow, but it does not hang.
const ALIVE_GRACE: Duration = Duration::from_secs(10);

/// A request that got no response from its function. Its tab is still open, so that the refusal can be recorded on it.
#[derive(Debug)]
pub struct CallFailure {
    /// What the client gets instead of a response.
    pub refusal: Refusal,
    /// The request's tab and permits.
    pub admitted: Admitted,
    /// The report that still comes, if the client is answered before the request's work is over.
    pub awaited: Option<AwaitedReport>,
}

impl CallFailure {
    fn new(error: PoolError, admitted: Admitted) -> Box<Self> {
        Box::new(Self { refusal: error.into(), admitted, awaited: None })
    }
}

/// Everything that is held while a request is with its worker.
struct InExchange {
    admitted: Admitted,
    worker_claim: WorkerClaim,
    expected: ExpectedReport,
    connection: Connection,
    claim_us: u64,
    request_body: Arc<BodyState>,
    times: ResponseTimes,
}

/// How long the response of a function may take.
fn times(limits: &FunctionLimits, caps: Option<RequestCaps>) -> ResponseTimes {
    // Longer than the worker's own limit, so that the worker tells first.
    let open = |limit_ms| Duration::from_millis(limit_ms) + Duration::from_secs(15);
    if let Some(caps) = caps {
        return ResponseTimes { open: open(caps.timeout_ms), idle: open(caps.timeout_ms) };
    }
    ResponseTimes {
        open: open(limits.stream_timeout_ms),
        // A client is not ended for a hiccup of the network.
        idle: Duration::from_millis(limits.stream_idle_ms.max(1_000)),
    }
}

/// Whether the function's responses depend on the origin of the page that asks.
fn varies(version: &Version) -> bool {
    !version.manifest().http.cors_origins.is_empty()
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Pool {
    /// Sends the request to a worker and returns the worker's response.
    pub async fn call(
        &self,
        inbound: FunctionRequest,
        target: Target,
        mut admitted: Admitted,
    ) -> Result<Response<ResponseBody>, Box<CallFailure>> {
        let version = Arc::clone(&target.version);
        let limits = &version.limits;
        let (timeout_ms, times) = (inbound.timeout_ms(limits), times(limits, inbound.caps));
        let deadline = tokio::time::Instant::from_std(inbound.deadline(limits));
        if let Err(error) = self.check_kills(&version) {
            return Err(CallFailure::new(error, admitted));
        }
        let mut claimed_at = Instant::now();
        let (mut worker_claim, mut connection) = match self.claim_before(&version, deadline, timeout_ms).await {
            Ok(claimed) => claimed,
            Err(error) => return Err(CallFailure::new(error, admitted)),
        };
        let (id, is_head) = (inbound.id, inbound.parts.method == Method::HEAD);
        let (client, caller) = (inbound.client, inbound.call.as_ref().map(|(caller, _)| Arc::clone(caller)));
        let body_max = limits.body_mib.saturating_mul(1 << 20);
        // HTTP/2 has it in the URI.
        let authority = inbound.parts.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        let host = authority.or_else(|| inbound.parts.headers.get(http::header::HOST).cloned());
        let at = (target.path, target.prefix.as_deref());
        let (mut request, mut request_body) = request::rebuild(inbound, at, version.key, body_max);
        let place = Place { style: target.style, prefix: target.prefix, host, varies: varies(&version) };
        let mut retry = RetryOnce::default();
        loop {
            // The registration with an earlier worker must end before the next one begins.
            admitted.outbound = None;
            let calling = || CallingRequest::new(id, &version, client, deadline.into_std(), caller.clone());
            let registered = self.register((worker_claim, connection), &version, calling, (deadline, timeout_ms)).await;
            (worker_claim, connection, admitted.outbound) = match registered {
                Ok(registered) => registered,
                Err(error) => return Err(CallFailure::new(error, admitted)),
            };
            let (kind, capacity_us) =
                (worker_claim.kind, u64::try_from(worker_claim.capacity_wait.as_micros()).unwrap_or(u64::MAX));
            let (slot, (class, price)) = (worker_claim.worker().slot(), self.price(worker_claim.worker()));
            admitted.tab.runs_on(class, price, worker_claim.worker().unbilled());
            admitted.tab.update_receipt(|receipt| {
                (receipt.start, receipt.slot) = (Some(kind), slot);
                receipt.capacity_us += capacity_us;
            });
            let outbound = admitted.outbound.as_ref().map(|registration| Arc::clone(registration.counter()));
            admitted.tab.count_outbound(outbound.clone());
            let expected = ExpectedReport::new(&worker_claim, id, admitted.tab.reservation());
            let claim_us = microseconds(claimed_at);
            let exchange = InExchange { admitted, worker_claim, expected, connection, claim_us, request_body, times };
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            request.set_deadline(left);
            let unanswered = match self.send(exchange, request, id, left + DEADLINE_GRACE).await {
                Ok((response, exchange)) => return self.relayed(response, exchange, &place, is_head),
                Err(SendError::Refused(failed)) => return Err(failed),
                Err(SendError::WorkerEnded(unanswered)) => unanswered,
            };
            // A task of its own: what was lost is billed even if the client leaves meanwhile.
            let (pool, of) = (self.clone(), Arc::clone(&version));
            let recording = tokio::spawn(async move {
                let mut unanswered = unanswered;
                let why = pool.note_kill(&of, unanswered.worker_claim.worker()).await;
                report::record_lost(&mut unanswered.admitted.tab, unanswered.worker_claim.worker());
                (why, unanswered)
            });
            let (why, unanswered) = match recording.await {
                Ok(recorded) => recorded,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            let affected = outbound.is_some_and(|counter| counter.has_called());
            let must_not_resend = unanswered.hung || affected || unanswered.worker_claim.worker().kept_gpu();
            let resendable = match unanswered.request {
                Some((request, begun)) if !must_not_resend => retry.take((request, unanswered.request_body), begun),
                _ => None,
            };
            admitted = unanswered.admitted;
            drop(unanswered.worker_claim);
            let Some(resendable) = resendable else { return Err(CallFailure::new(PoolError::Killed(why), admitted)) };
            tracing::info!(request = %id, why, "a worker ended; the request is sent to another");
            (request, request_body) = resendable;
            claimed_at = Instant::now();
            (worker_claim, connection) = match self.claim_before(&version, deadline, timeout_ms).await {
                Ok(claimed) => claimed,
                Err(error) => return Err(CallFailure::new(error, admitted)),
            };
        }
    }

    /// Registers a request with the worker that it got. A call by another function that finds its worker full of calls
    /// goes to another worker of its tenant that has room.
    async fn register(
        &self,
        (mut worker_claim, mut connection): (WorkerClaim, Connection),
        version: &Arc<Version>,
        calling: impl Fn() -> CallingRequest,
        (deadline, timeout_ms): (tokio::time::Instant, u64),
    ) -> Result<(WorkerClaim, Connection, Option<EgressGrant>), PoolError> {
        let mut full = Vec::new();
        loop {
            let error = match worker_claim.worker().begin_egress(calling()) {
                Ok(outbound) => return Ok((worker_claim, connection, outbound)),
                Err(error) => error,
            };
            // The scaling hears of it, wherever the call goes.
            version.permits.demand().note_full();
            full.push(Arc::clone(worker_claim.worker()));
            drop((worker_claim, connection));
            let beside = self.claim_beside(version, (&full, error.depth), deadline, timeout_ms).await?;
            (worker_claim, connection) = beside.ok_or_else(|| PoolError::NoCapacity(error.to_string()))?;
        }
    }

    /// Sends the request and waits for the head of the response. If this future is dropped before the head arrives, the
    /// client has left, and [`ClientGoneGuard`] takes over.
    async fn send(
        &self,
        exchange: InExchange,
        mut request: HopRequest,
        id: gannet_base::names::RequestId,
        longest: Duration,
    ) -> Result<(ResponseHead, InExchange), SendError> {
        let InExchange { admitted, worker_claim, expected, mut connection, claim_us, request_body, times } = exchange;
        let exchanges = Arc::clone(&self.exchanges);
        let (worker, reservation) = (Arc::clone(worker_claim.worker()), Arc::clone(admitted.tab.reservation()));
        let sending = Box::pin(async move {
            let sent = connection.send(&mut request, &exchanges).await;
            (connection, request, sent)
        });
        let mut abandoned = ClientGoneGuard { id, claim_us, held: Some((admitted, worker_claim, expected, sending)) };
        let sent = match &mut abandoned.held {
            Some((_, _, _, sending)) => {
                let cap = tokio::select! {
                    biased;
                    sent = sending.as_mut() => Ok(sent),
                    cap = reservation.over() => Err(NoHead::UsedUp(cap)),
                    () = hangs(&worker, longest) => Err(NoHead::Hung),
                };
                match cap {
                    // A response that is nearly there is paid for already.
                    Err(NoHead::UsedUp(cap)) => {
                        tokio::time::timeout(CLIENT_GONE_GRACE, sending.as_mut()).await.map_err(|_| NoHead::UsedUp(cap))
                    }
                    other => other,
                }
            }
            None => unreachable!("only a dropped future takes it"),
        };
        let Some((admitted, worker_claim, expected, sending)) = abandoned.held.take() else {
            unreachable!("only a dropped future takes it")
        };
        let (hung, request) = match sent {
            Ok((connection, _, Ok(response))) => {
                return Ok((
                    response,
                    InExchange { admitted, worker_claim, expected, connection, claim_us, request_body, times },
                ));
            }
            // Closing the connection also ends a guest that has already started.
            Ok((connection, request, Err(failed))) => {
                drop(connection);
                (false, Some((request, failed.begun)))
            }
            Err(NoHead::Hung) => (true, None),
            Err(NoHead::UsedUp(cap)) => {
                // Closing the connection ends the guest.
                drop(sending);
                let awaited = Some(AwaitedReport { expected, worker_claim, claim_us });
                let refusal = PoolError::UsedUp { cap }.into();
                return Err(SendError::Refused(Box::new(CallFailure { refusal, admitted, awaited })));
            }
        };
        drop(sending);
        // Nothing may be awaited here: if the client leaves, nobody would wait for the report.
        if let Some(refused) = request_body.refused() {
            // The guest's work until then is charged. If nothing was sent, there is none.
            let was_sent = !matches!(request, Some((_, false)));
            let awaited = was_sent.then_some(AwaitedReport { expected, worker_claim, claim_us });
            if let Some(rest) = request_body.rest() {
                tokio::spawn(crate::inbound::discard(rest));
            }
            let refusal = PoolError::Request(refused).into();
            return Err(SendError::Refused(Box::new(CallFailure { refusal, admitted, awaited })));
        }
        if hung {
            // The worker missed the deadline by a second, so it hangs. Its tenant's other requests there fail with it.
            self.end(worker_claim.worker(), "it missed a request's deadline by a second");
        }
        let unanswered = UnansweredRequest { admitted, worker_claim, hung, request, request_body };
        Err(SendError::WorkerEnded(Box::new(unanswered)))
    }
}

/// Why there is no head of a response.
enum NoHead {
    /// The tenant has reached this cap.
    UsedUp(ReachedCap),
    /// The worker does not respond.
    Hung,
}

/// Waits until a worker that owes a response after `longest` counts as hanging: it has sent nothing for a second, or
/// has sent only other messages for too long.
async fn hangs(worker: &Worker, longest: Duration) {
    tokio::time::sleep(longest).await;
    let until = tokio::time::Instant::now() + ALIVE_GRACE;
    loop {
        let silent = worker.silent();
        let now = tokio::time::Instant::now();
        if now >= until {
            return;
        }
        if silent >= DEADLINE_GRACE {
            // This process may have been slow itself, with the worker's messages unread.
            tokio::time::sleep(READ_GRACE).await;
            if worker.silent() >= DEADLINE_GRACE {
                return;
            }
            continue;
        }
        tokio::time::sleep_until((now + DEADLINE_GRACE - silent).min(until)).await;
    }
}

/// Why there is no response.
enum SendError {
    /// The request was refused because of its body.
    Refused(Box<CallFailure>),
    /// The worker ended, or was killed because it hung.
    WorkerEnded(Box<UnansweredRequest>),
}

/// What is left of a request whose worker ended.
struct UnansweredRequest {
    admitted: Admitted,
    worker_claim: WorkerClaim,
    /// Whether the worker was killed because it did not respond in time.
    hung: bool,
    /// The request, and whether a part of it was sent. `None` if it was still being sent.
    request: Option<(HopRequest, bool)>,
    request_body: Arc<BodyState>,
}

impl Pool {
    /// Turns the worker's response into the client's.
    fn relayed(
        &self,
        response: ResponseHead,
        exchange: InExchange,
        place: &Place,
        is_head: bool,
    ) -> Result<Response<ResponseBody>, Box<CallFailure>> {
        let InExchange { mut admitted, worker_claim, mut expected, connection, claim_us, request_body, times } =
            exchange;
        let (has_body, may_have_length) = (!is_head && response.may_have_body(), response.may_have_length());
        let ResponseHead { status, failed, report, mut headers } = response;
        let source = match report {
            Some(work) if failed && work.unsettled => {
                let times = WorkTimes { gpu_ns: work.gpu_ns, guest_ns: work.guest_ns };
                admitted.tab.reservation().progress(times);
                let error = work
                    .fault
                    .map_or_else(|| PoolError::Internal("a failure without its fault".into()), PoolError::from);
                let expected = expected.take();
                let awaited = Some(AwaitedReport { expected, worker_claim, claim_us });
                return Err(Box::new(CallFailure { refusal: error.into(), admitted, awaited }));
            }
            Some(work) => {
                let fault = work.fault.clone();
                report::record(&mut admitted.tab, work, worker_claim.worker(), claim_us);
                if let Some(fault) = fault.filter(|_| failed) {
                    // This response has no body, so the connection is free once the request's body was sent.
                    if request_body.is_done() {
                        worker_claim.worker().give_back(connection);
                    }
                    return Err(CallFailure::new(fault.into(), admitted));
                }
                ReportSource::Known
            }
            None => ReportSource::Frame(expected.take()),
        };
        // While the guest worked, the key may have been revoked.
        if admitted.key.as_ref().is_some_and(|key| !self.registry.snapshot().accepts(key)) {
            // That ends a guest that still runs.
            drop(connection);
            let refusal = PoolError::KeyRevoked.into();
            let awaited = match source {
                ReportSource::Frame(expected) => Some(AwaitedReport { expected, worker_claim, claim_us }),
                ReportSource::Known => None,
            };
            return Err(Box::new(CallFailure { refusal, admitted, awaited }));
        }
        if let Some(outbound) = &admitted.outbound {
            // From now on the worker limits the time of the response, and this only that of its calls.
            outbound.request().set_until(Instant::now() + times.open);
        }
        admitted.tab.update_receipt(|receipt| receipt.status = status.as_u16());
        let data_left = connection.data_left().map(|left| left as u64);
        let mut framing = relay::framing(has_body, data_left, announced_length(&headers).ok().flatten());
        framing.announced = framing.announced.filter(|_| may_have_length);
        head::finish(&mut headers, &source, &admitted.tab, worker_claim.kind, (framing.announced, place));
        let relayed = relay::RelayParts {
            length: framing.length,
            admitted,
            registry: Arc::clone(&self.registry),
            worker_claim,
            connection,
            source,
            claim_us,
            request_body,
            times,
            style: place.style,
        };
        let mut response = Response::new(relay::body(relayed, &self.slow_clients));
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        Ok(response)
    }
}
