//! Serves calls of functions by other functions of their tenant, `http://{function}.gannet.internal/`, with the same steps
//! as a client's request ([`front::path`](crate::front)).
//!
//! ```text
//!  egress ─▶ depth, head ─▶ no key: the socket proved the tenant ─▶ route::sibling ─▶ Admit::admit_call ─▶ pool ─▶ tab
//!             508, 400                                               404               429 402 503
//! ```
//!
//! Refusals are responses, in the same form as a client gets.

use crate::admit::Admit;
use crate::auth::remove_keys;
use crate::front::check_head;
use crate::respond::{close_failed, refuse, stamp};
use crate::route;
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::body::ResponseBody;
use gannet_base::names::RequestId;
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_base::siblings::{DEPTH_MAX, call_time};
use gannet_fleet::calling::depth_below;
use gannet_fleet::egress::siblings::{SiblingCall, SiblingCalls};
use gannet_fleet::inbound::{FunctionBody, FunctionRequest, RequestError};
use gannet_fleet::pool::Pool;
use gannet_state::registry::Registry;
use http::Response;
use hyper::body::Body;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a call was refused before its function was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Too many calls led to it.
    #[error("the call has depth {depth}; functions may call each other to depth {DEPTH_MAX}")]
    TooDeep {
        /// The depth that it would have.
        depth: u8,
    },
    /// Its URL has another scheme or port.
    #[error("other functions are called at http://FUNCTION.gannet.internal/, without TLS and on port 80")]
    Address,
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        match error {
            CallError::TooDeep { .. } => Self::new(RefusalKind::CallsTooDeep, "call_depth", Blame::Function, error)
                .hint("functions that call each other in a circle never end; pass the work on as a background job")
                .permanent(),
            CallError::Address => {
                Self::new(RefusalKind::Malformed, "sibling_address", Blame::Function, error).permanent()
            }
        }
    }
}

/// Serves the calls; see the module. Clones share all state.
#[derive(Debug, Clone)]
pub struct DoorSiblings {
    admit: Arc<Admit>,
    pool: Pool,
    registry: Arc<Registry>,
}

impl SiblingCalls for DoorSiblings {
    fn call(&self, call: SiblingCall) -> BoxFuture<'static, Response<ResponseBody>> {
        let siblings = self.clone();
        async move {
            let id = RequestId::new();
            let mut response = siblings.serve(id, call).await.unwrap_or_else(|refusal| {
                if let Some(cause) = &refusal.internal {
                    tracing::warn!(request = %id, code = refusal.code, %cause, "a call by a function was refused");
                }
                refuse(&refusal, id)
            });
            stamp(&mut response, id);
            response
        }
        .boxed()
    }
}

impl DoorSiblings {
    /// Creates it.
    pub fn new(admit: Arc<Admit>, pool: Pool, registry: Arc<Registry>) -> Self {
        Self { admit, pool, registry }
    }

    async fn serve(&self, id: RequestId, call: SiblingCall) -> Result<Response<ResponseBody>, Refusal> {
        let SiblingCall { tenant, function, caller, is_plain, mut parts, body } = call;
        // 1. Refuse what is too deep or ambiguous.
        let depth = depth_below(Some(&caller));
        if depth > DEPTH_MAX {
            return Err(CallError::TooDeep { depth }.into());
        }
        if !is_plain {
            return Err(CallError::Address.into());
        }
        check_head(&parts)?;
        // 2. The worker's socket has proved the tenant.
        remove_keys(&mut parts.headers);
        // 3. Find the function.
        let target = route::sibling((&tenant, &function), &parts, id, &self.registry.snapshot())?;
        // 4. May it run now?
        let limits = &target.version.limits;
        let body_max = limits.body_mib.saturating_mul(1 << 20);
        if body.size_hint().lower() > body_max {
            return Err(RequestError::BodyTooLarge { limit: body_max }.into());
        }
        let arrived = Instant::now();
        let time = call_time(arrived, Duration::from_millis(limits.timeout_ms), caller.until());
        let admitted = self.admit.admit_call(&target, id, &caller, time.until).await?;
        // 5. As for a client. Steps 6 and 7 run in the worker process.
        let request = FunctionRequest {
            id,
            arrived,
            client: caller.client(),
            https: false,
            parts,
            body: FunctionBody::Incoming(body),
            caps: None,
            job: None,
            call: Some((Arc::clone(&caller), time.until)),
        };
        let result = self.pool.call(request, target, admitted).await;
        // 8. A failed call closes the tab here. Otherwise the response body holds it until its last byte.
        result.map_err(|mut failed| {
            if time.is_callers && failed.refusal.code == "deadline_exceeded" {
                let ms = time.until.saturating_duration_since(arrived).as_millis();
                failed.refusal.public = format!(
                    "the function did not respond within {ms} ms, which its caller, request {}, had left",
                    caller.id()
                );
            }
            close_failed(*failed)
        })
    }
}
