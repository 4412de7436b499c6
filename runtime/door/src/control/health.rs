//! `/healthz`, `/readyz` and `/metrics`: whether the server works, and its counters.

use crate::access::AccessError;
use crate::control::Control;
use crate::respond::{ReplyStatus, raw};
use bytes::Bytes;
use gannet_base::bill::StartKind;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::refusal::Refusal;
use gannet_fleet::inbound::{InboundRequest, ListenerRole};
use http::{Method, Response};
use std::fmt::Write;

impl Control {
    /// Serves these paths. Returns None for any other path.
    pub(super) fn health_endpoints(
        &self,
        inbound: &InboundRequest,
        caller: &Caller,
        path: &str,
    ) -> Result<Option<Response<ResponseBody>>, Refusal> {
        let (done, text) = match path {
            "/healthz" => (ReplyStatus::Ok, "ok\n".to_owned()),
            "/readyz" => {
                // Ready means that requests start fast: a worker or a spare exists.
                if self.pool.counts().iter().any(|counts| counts.workers + counts.spares > 0) {
                    (ReplyStatus::Ok, "ready\n".to_owned())
                } else {
                    (ReplyStatus::NotReady, "no worker yet\n".to_owned())
                }
            }
            // The metrics are sums over all tenants, so only the operator may read them. On the admin listener no key
            // is asked for, because only the operator reaches it; elsewhere the operator's key is needed.
            "/metrics" if !self.dev && inbound.listener != ListenerRole::Admin && *caller != Caller::Operator => {
                return Err(match caller {
                    Caller::Anonymous => AccessError::KeyNeeded,
                    _ => AccessError::NotFound,
                }
                .into());
            }
            "/metrics" => (ReplyStatus::Ok, self.metrics()),
            _ => return Ok(None),
        };
        if !matches!(inbound.parts.method, Method::GET | Method::HEAD) {
            let method = inbound.parts.method.to_string();
            return Err(AccessError::MethodNotAllowed { method, allowed: "GET, HEAD".into() }.into());
        }
        Ok(Some(raw(done, "text/plain; charset=utf-8", Bytes::from(text))))
    }

    /// Returns Prometheus text for the whole server. Nothing in it names a tenant.
    fn metrics(&self) -> String {
        let totals = self.ledger.totals();
        let counts = self.pool.counts();
        let workers: usize = counts.iter().map(|counts| counts.workers).sum();
        let spares: usize = counts.iter().map(|counts| counts.spares).sum();
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            let _ = writeln!(text, "# HELP gannet_{name} {help}\n# TYPE gannet_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "gannet_{name}{labels} {value}");
            }
        };
        metric("requests_total", "counter", "Requests admitted and ended.", &[("", totals.requests)]);
        metric("request_errors_total", "counter", "Admitted requests that ended in an error.", &[("", totals.errors)]);
        metric("gpu_nanoseconds_total", "counter", "GPU time charged.", &[("", totals.gpu_ns)]);
        let held = u64::try_from(self.arbiter.held().as_nanos()).unwrap_or(u64::MAX);
        metric("gpu_lease_nanoseconds_total", "counter", "Time for which GPUs were held.", &[("", held)]);
        let [hot, warm, cold] = totals.starts;
        let label = |kind: StartKind| format!("{{kind=\"{}\"}}", kind.as_str());
        let labels = [label(StartKind::Hot), label(StartKind::Warm), label(StartKind::Cold)];
        let [a, b, c] = &labels;
        metric("starts_total", "counter", "Requests by how they started.", &[(a, hot), (b, warm), (c, cold)]);
        metric("workers", "gauge", "Tenants with a worker.", &[("", workers as u64)]);
        metric("spares", "gauge", "Workers ready for any tenant.", &[("", spares as u64)]);
        text
    }
}
