//! The path of a request, in one function: [`Steps::serve`].
//!
//! ```text
//!  1 front ─▶ 2 auth ─▶ 3 route ─▶ 4 admit ─▶ 5 pool ─▶ │ 6 worker ─▶ 7 host-gpu │ ─▶ response ─▶ 8 tab closes
//!    check      caller    target     permits    worker       another process                       with the last byte
//!
//!  9 respond: turns a refusal of any step into a response
//! ```
//!
//! No step can be skipped, because each needs the result of the one before: routing needs a caller, admission a target,
//! the pool an open tab and permits. Each step has its own error type, which is converted into a [`Refusal`].

use super::check::{AllowedHosts, check};
use super::cors;
use super::held_body::WaitingAnswers;
use super::seats::Seat;
use crate::admit::Admit;
use crate::audit::AuditTrail;
use crate::auth::Auth;
use crate::control::Control;
use crate::jobs::{self, JobServices, ServerJobs};
use crate::openai::{self, OpenAiDestination, keep_alive};
use crate::respond::{ReplyStatus, close_failed, rate_headers, raw, without_body};
use crate::route::{self, Destination};
use crate::waiting_bytes::{Recipient, WaitingLimits};
use crate::whole_body::BodyBudget;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::refusal::Refusal;
use gannet_fleet::inbound::{InboundRequest, RequestError};
use gannet_fleet::pool::Pool;
use gannet_state::config::LiveConfig;
use http::{HeaderValue, Method, Response};
use std::sync::Arc;

/// The steps of a request's path, and the state that they share.
#[derive(Debug)]
pub struct Steps {
    /// Identifies the caller.
    pub auth: Auth,
    /// Decides whether the request may run now.
    pub admit: Arc<Admit>,
    /// Runs the request on a worker.
    pub pool: Pool,
    /// Background jobs.
    pub jobs: ServerJobs,
    /// Handles requests to the control API.
    pub control: Arc<Control>,
    /// Writes the audit log.
    pub trail: Arc<AuditTrail>,
    /// Bounds the memory for answers of the control API that their clients do not take.
    pub answers: WaitingAnswers,
    /// Bounds the memory for bodies that are read before their function is known.
    pub bodies: BodyBudget,
    /// The server's configuration; SIGHUP replaces it.
    pub live: LiveConfig,
    /// Whether requests with other host names than loopback ones are refused. Set with `--dev`: everybody knows its
    /// key, so a web page must not be able to reach the server under a host name of its own.
    pub loopback_only: bool,
}

impl Steps {
    /// Returns the most bytes that may wait for clients.
    pub(super) fn waiting_limits(&self) -> WaitingLimits {
        let edge = &self.live.load().edge;
        WaitingLimits { address: edge.waiting_mib_per_address << 20, all: edge.waiting_mib << 20 }
    }

    /// Returns the server's URL, without a slash at its end.
    fn base_url(&self) -> String {
        let file = self.live.load();
        file.public_url.as_deref().unwrap_or(&self.control.own_url).trim_end_matches('/').to_owned()
    }

    fn job_services<'a>(&'a self, base: &'a str) -> JobServices<'a> {
        JobServices { admit: &self.admit, bodies: &self.bodies, trail: &self.trail, base }
    }

    /// Checks the head of a request.
    fn check(&self, inbound: &InboundRequest) -> Result<(), RequestError> {
        if !self.loopback_only {
            return check(&inbound.parts, AllowedHosts::All);
        }
        check(&inbound.parts, AllowedHosts::Loopback(self.live.load().domain.as_deref()))
    }
}

impl Steps {
    /// Takes a request through all steps and returns the response. `origin` is the request's origin if its preflights
    /// are allowed; `seat` is its connection's.
    pub(super) async fn serve(
        self: &Arc<Self>,
        mut inbound: InboundRequest,
        origin: Option<&HeaderValue>,
        seat: &Seat,
    ) -> Result<Response<ResponseBody>, Refusal> {
        // 1. Refuse an ambiguous head. Preflights end here.
        self.check(&inbound)?;
        if let Some(origin) = origin.filter(|_| cors::is_preflight(&inbound.parts)) {
            let mut response = raw(ReplyStatus::Empty, "text/plain", bytes::Bytes::new());
            response.headers_mut().extend(cors::preflight(origin, &inbound.parts.headers));
            return Ok(response);
        }
        // 2. Who sends it? This takes the key out of the request.
        let (client, connection) = (inbound.client, inbound.connection);
        let (caller, snapshot) = self.auth.caller(&mut inbound.parts.headers, client)?;
        match &caller {
            Caller::Anonymous => {}
            Caller::Tenant(key) => seat.prove(Some(key.record.tenant.as_str())),
            Caller::Operator => seat.prove(None),
        }
        // 3. What is it for?
        let is_head = inbound.parts.method == Method::HEAD;
        let destination = route::destination(&inbound, &caller, &snapshot, &self.live.load())?;
        let (target, stream) = match destination {
            Destination::Function(target) => (target, false),
            Destination::OpenAi => match openai::find(&mut inbound, &caller, &snapshot, &self.bodies).await? {
                OpenAiDestination::Models(response) if is_head => return Ok(without_body(response)),
                OpenAiDestination::Models(response) => return Ok(response),
                OpenAiDestination::Function { target, stream } => (target, stream),
            },
            Destination::Jobs => {
                // Before anything is done: an answer that is refused afterwards would take parts of a stream with it.
                let recipient = Recipient::new(connection, client, None);
                self.answers.check_room(jobs::USUAL_ANSWER_BYTES, &recipient, &self.waiting_limits())?;
                let base = self.base_url();
                let services = self.job_services(&base);
                let answer = jobs::answer(&self.jobs, &services, &mut inbound, &caller, &snapshot).await?;
                if is_head {
                    return Ok(without_body(answer));
                }
                let tenant = inbound.served.get().map(|(tenant, _)| tenant.clone());
                let recipient = Recipient::new(connection, client, tenant);
                if jobs::is_repeatable(inbound.parts.uri.path()) {
                    return self.answers.hold(answer, &recipient, &self.waiting_limits());
                }
                return Ok(self.answers.hold_anyway(answer, &recipient));
            }
            Destination::Hook => {
                let base = self.base_url();
                let services = self.job_services(&base);
                return jobs::inbound::answer(&self.jobs, &services, &mut inbound, &snapshot).await;
            }
            Destination::Control => {
                // What anybody may read is small or shared, and what was changed must be told.
                let is_held = inbound.parts.method == Method::GET && !matches!(caller, Caller::Anonymous);
                let tenant = match &caller {
                    Caller::Tenant(key) => Some(key.record.tenant.clone()),
                    Caller::Anonymous | Caller::Operator => None,
                };
                let answer = self.control.call(inbound, caller, snapshot).await?;
                if is_head {
                    return Ok(without_body(answer));
                }
                if !is_held {
                    return Ok(answer);
                }
                let recipient = Recipient::new(connection, client, tenant);
                return self.answers.hold(answer, &recipient, &self.waiting_limits());
            }
        };
        // It is set only here, so this cannot fail.
        let _ = inbound.served.set((target.version.tenant.clone(), target.version.function.clone()));
        let (steps, id) = (Arc::clone(self), inbound.id);
        let response_future = async move {
            // 4. May it run now? Its tab is open from here on.
            let (admitted, rate, rate_state) = steps.admit.admit(&mut inbound, &caller, &target).await?;
            // 5. The pool claims a worker and sends it the request. Steps 6 and 7 run in the worker process.
            let result = steps.pool.call(inbound.into(), target, admitted).await;
            // 8. A failed call closes the tab here. Otherwise the response body holds it until its last byte.
            let mut response = result.map_err(|failed| close_failed(*failed))?;
            rate_headers(response.headers_mut(), rate, rate_state);
            Ok(response)
        };
        // A stream sends comments until its first event. 9. `front` turns a refusal into a response with `respond`.
        if stream { keep_alive::answer(Box::pin(response_future), id).await } else { response_future.await }
    }
}
