//! The path of a request, in one function: [`Steps::serve`].
//!
//! ```text
//!  check ─▶ auth ─▶ route ─▶ admit ─▶ pool ─▶ │ worker ─▶ host-gpu │ ─▶ the answer, whose last byte closes the tab
//!            who     whose     may it  a worker  another process
//! ```
//!
//! No step can be skipped, because each needs what the one before it made: routing needs a caller, admission a target, the pool
//! an open tab and permits. Each refuses with an error of its own, which becomes a [`Refusal`].

use super::check::check;
use super::cors;
use crate::admit::Admit;
use crate::auth::Auth;
use crate::control::Control;
use crate::openai::{self, BodyBudget, OpenAiDestination, keep_alive};
use crate::respond::{ReplyStatus, close_failed, rate_headers, raw};
use crate::route::{self, Destination};
use gannet_base::body::ResponseBody;
use gannet_base::refusal::Refusal;
use gannet_fleet::inbound::InboundRequest;
use gannet_fleet::pool::Pool;
use gannet_state::config::LiveConfig;
use http::{HeaderValue, Response};
use std::sync::Arc;

/// The steps that a request takes.
#[derive(Debug)]
pub struct Steps {
    /// Who sent it.
    pub auth: Auth,
    /// Whether it may run now.
    pub admit: Admit,
    /// Where it runs.
    pub pool: Pool,
    /// What is asked for beside functions.
    pub control: Control,
    /// Bodies that are read before their function is known.
    pub bodies: BodyBudget,
    /// The server's file.
    pub live: LiveConfig,
    /// Whether only loopback host names are answered: with `--dev` the key is known to everybody, and a web page must not be
    /// able to reach it by a name of its own.
    pub loopback_only: bool,
}

impl Steps {
    /// Answers a request. `origin` is a page's that asks for a preflight.
    pub(super) async fn serve(
        self: &Arc<Self>,
        mut inbound: InboundRequest,
        origin: Option<&HeaderValue>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        // 1. Can it be read in one way only?
        check(&inbound.parts, self.loopback_only)?;
        if let Some(origin) = origin.filter(|_| cors::is_preflight(&inbound.parts)) {
            let mut response = raw(ReplyStatus::Empty, "text/plain", bytes::Bytes::new());
            response.headers_mut().extend(cors::preflight(origin, &inbound.parts.headers));
            return Ok(response);
        }
        // 2. Who sends it? The key leaves the request here.
        let client = inbound.client;
        let (caller, snapshot) = self.auth.caller(&mut inbound.parts.headers, client)?;
        // 3. What is it for?
        let destination = route::destination(&inbound, &caller, &snapshot, &self.live.load())?;
        let (target, stream) = match destination {
            Destination::Function(target) => (target, false),
            Destination::OpenAi => match openai::find(&mut inbound, &caller, &snapshot, &self.bodies).await? {
                OpenAiDestination::Models(response) => return Ok(response),
                OpenAiDestination::Function { target, stream } => (target, stream),
            },
            Destination::Control => return self.control.call(inbound, caller, snapshot).await,
        };
        if let Some(served) = &inbound.served {
            // Set once, here.
            let _ = served.set((target.version.tenant.clone(), target.version.function.clone()));
        }
        let (steps, id) = (Arc::clone(self), inbound.id);
        let answering = async move {
            // 4. May it run now? Its tab is open from here on.
            let (admitted, rate, rate_state) = steps.admit.admit(&mut inbound, &caller, &target).await?;
            // 5. to 8. A worker answers; the tab closes with the last byte of the body, or with the refusal.
            let answered = steps.pool.call(inbound, target, admitted).await;
            let mut response = answered.map_err(|failed| close_failed(*failed))?;
            rate_headers(response.headers_mut(), rate, rate_state);
            Ok(response)
        };
        // 9. The client of a stream is kept waiting by comments; `respond` writes what was refused.
        if stream { keep_alive::answer(Box::pin(answering), id).await } else { answering.await }
    }
}
