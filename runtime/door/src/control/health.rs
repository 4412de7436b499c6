//! `/healthz`, `/readyz` and `/metrics`: whether the server works, and its counters.

use crate::access::AccessError;
use crate::control::Control;
use crate::control::error::ControlError;
use crate::respond::{ReplyStatus, raw};
use bytes::Bytes;
use gannet_base::bill::StartKind;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::refusal::Refusal;
use gannet_fleet::inbound::{InboundRequest, ListenerRole};
use http::{Method, Response};
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE, encode};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

const TEXT: &str = "text/plain; charset=utf-8";

fn unreported(error: std::fmt::Error) -> Refusal {
    ControlError::Internal(format!("the metrics: {error}")).into()
}

impl Control {
    /// Serves these paths. Returns None for any other path.
    pub(super) fn health_endpoints(
        &self,
        inbound: &InboundRequest,
        caller: &Caller,
        path: &str,
    ) -> Result<Option<Response<ResponseBody>>, Refusal> {
        let (done, media_type, text) = match path {
            "/healthz" => (ReplyStatus::Ok, TEXT, "ok\n".to_owned()),
            "/readyz" => {
                // Ready means that requests start fast: a worker or a spare exists.
                if let Err(why) = self.ledger.check() {
                    (ReplyStatus::NotReady, TEXT, format!("no request is admitted: {why}\n"))
                } else if self.pool.counts().iter().any(|counts| counts.workers + counts.spares > 0) {
                    (ReplyStatus::Ok, TEXT, "ready\n".to_owned())
                } else {
                    (ReplyStatus::NotReady, TEXT, "no worker yet\n".to_owned())
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
            "/metrics" => (ReplyStatus::Ok, CONTENT_TYPE, self.metrics().map_err(unreported)?),
            _ => return Ok(None),
        };
        if !matches!(inbound.parts.method, Method::GET | Method::HEAD) {
            let method = inbound.parts.method.to_string();
            return Err(AccessError::MethodNotAllowed { method, allowed: "GET, HEAD".into() }.into());
        }
        Ok(Some(raw(done, media_type, Bytes::from(text))))
    }

    /// Returns the metrics of the whole server in the text format of Prometheus. Nothing in them names a tenant.
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let totals = self.ledger.totals();
        let counts = self.pool.counts();
        let workers: usize = counts.iter().map(|counts| counts.workers).sum();
        let spares: usize = counts.iter().map(|counts| counts.spares).sum();
        let held = u64::try_from(self.arbiter.held().as_nanos()).unwrap_or(u64::MAX);
        let starts = Family::<[(&str, &str); 1], Counter>::default();
        let [hot, warm, cold] = totals.starts;
        for (kind, count) in [(StartKind::Hot, hot), (StartKind::Warm, warm), (StartKind::Cold, cold)] {
            starts.get_or_create(&[("kind", kind.as_str())]).inc_by(count);
        }
        let of_slots = Family::<[(&str, String); 1], Gauge>::default();
        for (slot, counts) in counts.iter().enumerate() {
            of_slots
                .get_or_create(&[("slot", slot.to_string())])
                .set(i64::try_from(counts.workers).unwrap_or(i64::MAX));
        }
        let mut registry = Registry::with_prefix("gannet");
        let mut counter = |name, help, value| registry.register(name, help, ConstCounter::new(value));
        counter("requests", "Requests admitted and ended", totals.requests);
        counter("request_errors", "Admitted requests that ended in an error", totals.errors);
        counter("gpu_nanoseconds", "GPU time charged", totals.gpu_ns);
        counter("gpu_lease_nanoseconds", "Time for which GPUs were held", held);
        registry.register("starts", "Requests by how they started", starts);
        registry.register("slot_workers", "Tenants' workers in each GPU slot", of_slots);
        let mut gauge = |name, help, value| registry.register(name, help, ConstGauge::new(value as u64));
        gauge("workers", "Tenants' workers", workers);
        gauge("workers_wanted", "Workers that the scaling of all functions wants", self.pool.wanted());
        let waiting = usize::try_from(self.waiting.all()).unwrap_or(usize::MAX);
        gauge("response_bytes_waiting", "Bytes of responses that wait in memory for clients", waiting);
        gauge("spares", "Workers ready for any tenant", spares);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}
