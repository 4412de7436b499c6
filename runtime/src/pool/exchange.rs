//! One exchange with a worker: claim, send, answer.
//!
//! ```text
//!  claim a seat and a connection ─▶ send the rebuilt request ─▶ head ─▶ relay of the body
//!        │ deadline: 504               │ body cut: 408 413        └ the worker says that the guest failed: 502 504
//!        └ no worker: 503              │ no answer in time: the worker is killed, 502
//!                                      │ its worker ended: once more, if that can do no harm (`retry`), else 502
//!                                      └ client gone: the bill comes later (`expected`)
//! ```

use crate::admit::Admitted;
use crate::hop::{Work, header};
use crate::inbound::Inbound;
use crate::manifest::Limits;
use crate::pool::claim::Seated;
use crate::pool::expected::{CUT_MAX, Expected, Leaving};
use crate::pool::relay::{self, WorkSource};
use crate::pool::request::{self, BodyState, RequestBody};
use crate::pool::retry::{Again, Sendable};
use crate::pool::worker::Connection;
use crate::pool::{Pool, PoolError, head};
use crate::registry::Version;
use crate::respond::{Refused, ResponseBody, code_of, status_of};
use crate::route::{Style, Target};
use http::{Request, Response};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much later than its deadline a worker may answer that the deadline has passed.
const LATE_MAX: Duration = Duration::from_secs(1);

/// A refusal, and what goes back to be written on the tab.
type Failed = (PoolError, Admitted);

/// Everything that is held while a request is with its worker.
struct Held {
    admitted: Admitted,
    seated: Seated,
    expected: Expected,
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
        admitted: Admitted,
    ) -> Result<Response<ResponseBody>, Refused> {
        match self.exchange(inbound, target, admitted).await {
            Ok(response) => Ok(response),
            Err((error, mut admitted)) => {
                let refused = Refused::from(error);
                let (code, blame) = code_of(&refused);
                let status = status_of(&refused).as_u16();
                admitted.tab.note(|receipt| {
                    receipt.status = status;
                    receipt.error = Some(code.to_owned());
                    receipt.error_detail = Some(refused.to_string());
                    receipt.fault = Some(blame);
                });
                Err(refused)
            }
        }
    }

    async fn exchange(
        &self,
        inbound: Inbound,
        target: Target,
        mut admitted: Admitted,
    ) -> Result<Response<ResponseBody>, Failed> {
        let version = Arc::clone(&target.version);
        let limits = &version.limits;
        let deadline = tokio::time::Instant::from_std(inbound.arrived + Duration::from_millis(limits.timeout_ms));
        if let Err(error) = self.check_kills(&version) {
            return Err((error, admitted));
        }
        let mut claimed_at = Instant::now();
        let (mut seated, mut connection) = match self.seat_by(&version, deadline).await {
            Ok(claimed) => claimed,
            Err(error) => return Err((error, admitted)),
        };
        let id = inbound.id;
        let body_max = limits.body_mib.saturating_mul(1 << 20);
        let (mut request, mut request_body) = request::rebuild(inbound, target.path, version.key, body_max);
        let style = target.style;
        let mut again = Again::of(&request);
        loop {
            let (kind, capacity_us) =
                (seated.kind, u64::try_from(seated.capacity_wait.as_micros()).unwrap_or(u64::MAX));
            let (class, price) = self.price(seated.worker());
            admitted.tab.place(class, price, seated.worker().unbilled());
            admitted.tab.note(|receipt| {
                receipt.start = Some(kind);
                receipt.capacity_us += capacity_us;
            });
            let sent_out = seated.worker().begin_egress(&version, id);
            admitted.tab.sends_by(sent_out.clone());
            let expected = Expected::new(&seated, id);
            let claim_us = microseconds(claimed_at);
            let held = Held { admitted, seated, expected, connection, claim_us, request_body, late: late(limits) };
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            request::set_deadline(&mut request, left);
            let ended = match self.send(held, request, id, left + LATE_MAX).await {
                Ok((answer, held)) => return relayed(answer, held, id, style),
                Err(Unanswered::Refused(failed)) => return Err(*failed),
                Err(Unanswered::Ended(ended)) => ended,
            };
            let why = self.note_kill(&version, ended.seated.worker()).await;
            let mut ended = ended;
            relay::lost(&mut ended.admitted.tab, ended.seated.worker());
            let affected = sent_out.is_some_and(|tally| tally.has_called());
            let never = ended.hung || affected || ended.seated.worker().overstayed();
            let next = if never { None } else { again.take(ended.unsent) };
            admitted = ended.admitted;
            drop(ended.seated);
            let Some((next, body)) = next else { return Err((PoolError::Killed(why), admitted)) };
            tracing::info!(request = %id, why, "a worker ended; the request is sent to another");
            (request, request_body) = (next, body);
            claimed_at = Instant::now();
            (seated, connection) = match self.seat_by(&version, deadline).await {
                Ok(claimed) => claimed,
                Err(error) => return Err((error, admitted)),
            };
        }
    }

    /// A seat and a connection. A worker that ends before it has the request is replaced, once.
    async fn seat_by(
        &self,
        version: &Arc<Version>,
        deadline: tokio::time::Instant,
    ) -> Result<(Seated, Connection), PoolError> {
        let seating = async {
            match self.seat(version).await {
                Err(PoolError::Killed(_)) => self.seat(version).await,
                other => other,
            }
        };
        tokio::time::timeout_at(deadline, seating).await.unwrap_or_else(|_| {
            let limit = version.limits.timeout_ms;
            Err(PoolError::Deadline(format!("no worker was ready within {limit} ms")))
        })
    }

    async fn seat(&self, version: &Arc<Version>) -> Result<(Seated, Connection), PoolError> {
        let seated = self.claim(version).await?;
        let connection = seated.worker().connection().await?;
        Ok((seated, connection))
    }

    /// Sends, and waits for the head. When this is dropped in between, the client has left.
    async fn send(
        &self,
        held: Held,
        request: Request<RequestBody>,
        id: crate::names::RequestId,
        longest: Duration,
    ) -> Result<(Response<Incoming>, Held), Unanswered> {
        let Held { admitted, seated, expected, mut connection, claim_us, request_body, late } = held;
        let sending = Box::pin(async move {
            let sent = connection.send(request).await;
            (connection, sent)
        });
        let mut leaving = Leaving { id, claim_us, held: Some((admitted, seated, expected, sending)) };
        let sent = match &mut leaving.held {
            Some((_, _, _, sending)) => tokio::time::timeout(longest, sending.as_mut()).await,
            None => unreachable!("only a dropped future takes it"),
        };
        let Some((mut admitted, seated, expected, sending)) = leaving.held.take() else {
            unreachable!("only a dropped future takes it")
        };
        let (hung, unsent) = match sent {
            Ok((connection, Ok(answer))) => {
                return Ok((answer, Held { admitted, seated, expected, connection, claim_us, request_body, late }));
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
                Some(work) => relay::apply(&mut admitted.tab, work, seated.worker(), claim_us),
                None => relay::lost(&mut admitted.tab, seated.worker()),
            }
            if let Some(rest) = request_body.rest() {
                crate::inbound::discard(rest).await;
            }
            return Err(Unanswered::Refused(Box::new((PoolError::Request(refused), admitted))));
        }
        if hung {
            // It has missed its deadline by a second: it hangs, and takes its tenant's other requests with it.
            self.end(seated.worker(), "it missed a request's deadline by a second");
        }
        let unsent = unsent.map(|request| (*request, request_body));
        Err(Unanswered::Ended(Box::new(Ended { admitted, seated, hung, unsent })))
    }
}

/// Why there is no answer.
enum Unanswered {
    /// The request was refused on its way.
    Refused(Box<Failed>),
    /// The worker ended.
    Ended(Box<Ended>),
}

/// What is left of a request whose worker ended.
struct Ended {
    admitted: Admitted,
    seated: Seated,
    /// Whether it had to be ended because it did not answer in time.
    hung: bool,
    /// The request, if nothing of it was sent.
    unsent: Option<Sendable>,
}

/// Turns the worker's answer into the client's.
fn relayed(
    answer: Response<Incoming>,
    held: Held,
    id: crate::names::RequestId,
    style: Style,
) -> Result<Response<ResponseBody>, Failed> {
    let Held { mut admitted, seated, mut expected, connection, claim_us, request_body, late } = held;
    let (mut parts, body) = answer.into_parts();
    let known: Option<Work> =
        parts.headers.remove(header::WORK).and_then(|value| serde_json::from_slice(value.as_bytes()).ok());
    let source = match known {
        Some(work) => {
            let fault = work.fault.clone();
            relay::apply(&mut admitted.tab, work, seated.worker(), claim_us);
            if let Some(fault) = fault.filter(|_| head::is_fault(&parts.headers)) {
                // Read to its end: the answer has no body.
                if request_body.is_done() {
                    seated.worker().give_back(connection);
                }
                return Err((fault.into(), admitted));
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
