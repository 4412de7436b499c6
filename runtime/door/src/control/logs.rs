//! `/api/v1/functions/{name}/logs`: lines as JSON, or as Server-Sent Events with `follow=1`.

use crate::control::Control;
use crate::control::authorize::{TenantGrant, may_still_read};
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::respond::{ReplyStatus, json, stream};
use bytes::Bytes;
use gannet_api::LogLines;
use gannet_base::body;
use gannet_base::log_line::LogLine;
use gannet_base::names::RequestId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// The most events that wait for a slow follower.
const EVENTS_CAPACITY: usize = 32;
/// A comment line at this interval keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often a quiet stream checks whether its reader may still read.
const CHECK: Duration = Duration::from_secs(1);

impl Control {
    pub(super) fn read_logs(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        if !grant.owner.functions.contains_key(&name) {
            return Err(ControlError::NotFound.into());
        }
        let request = call.query.get("request").map(|text| {
            RequestId::parse(text).ok_or_else(|| ControlError::Invalid("request is not a request id".into()))
        });
        let request = request.transpose()?;
        let wanted = move |line: &LogLine| request.is_none_or(|id| id == line.request);
        // HEAD has no body that could be followed.
        if !call.query.flag("follow")? || call.inbound.parts.method == http::Method::HEAD {
            let mut lines = self.logs.read(&grant.tenant, &name);
            lines.retain(wanted);
            return Ok(json(ReplyStatus::Ok, &LogLines { lines }));
        }
        let (mut lines, followed) = self.logs.follow(&grant.tenant, &name);
        lines.retain(wanted);
        let (sender, receiver) = mpsc::channel(EVENTS_CAPACITY);
        let (registry, caller, tenant) = (Arc::clone(&self.registry), call.caller.clone(), grant.tenant.clone());
        let is_allowed = move || may_still_read(&registry.snapshot(), &caller, &tenant, &name);
        tokio::spawn(send(lines, followed, sender, wanted, is_allowed));
        Ok(stream("text/event-stream", body::events(receiver)))
    }
}

fn event(line: &LogLine) -> Bytes {
    Bytes::from(format!("data: {}\n\n", serde_json::to_string(line).unwrap_or_default()))
}

async fn send(
    lines: Vec<LogLine>,
    mut followed: broadcast::Receiver<LogLine>,
    events: mpsc::Sender<Bytes>,
    wanted: impl Fn(&LogLine) -> bool,
    is_allowed: impl Fn() -> bool,
) {
    for line in &lines {
        if !is_allowed() || events.send(event(line)).await.is_err() {
            return;
        }
    }
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.reset();
    let mut check = tokio::time::interval(CHECK);
    while is_allowed() {
        let part = tokio::select! {
            line = followed.recv() => match line {
                Ok(line) if wanted(&line) => event(&line),
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(lost)) => Bytes::from(format!(": {lost} lines were lost\n\n")),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            _ = check.tick() => continue,
            _ = keep_alive.tick() => Bytes::from_static(b": still here\n\n"),
        };
        keep_alive.reset();
        if events.send(part).await.is_err() {
            return;
        }
    }
}
