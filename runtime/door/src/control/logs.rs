//! `/api/v1/functions/{name}/logs`: lines as JSON, or as Server-Sent Events with `follow=1`.

use crate::control::Control;
use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::respond::{ReplyStatus, json, stream};
use bytes::Bytes;
use gannet_api::LogLines;
use gannet_base::body;
use gannet_base::log_line::LogLine;
use gannet_base::names::RequestId;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// The most events that wait for a slow follower.
const EVENTS_CAPACITY: usize = 256;
/// A comment line at this interval keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

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
        let (mut lines, followed) = self.logs.read(&grant.tenant, &name);
        lines.retain(wanted);
        if !call.query.flag("follow")? {
            return Ok(json(ReplyStatus::Ok, &LogLines { lines }));
        }
        let (sender, receiver) = mpsc::channel(EVENTS_CAPACITY);
        tokio::spawn(send(lines, followed, sender, wanted));
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
) {
    for line in &lines {
        if events.send(event(line)).await.is_err() {
            return;
        }
    }
    loop {
        let part = tokio::select! {
            line = followed.recv() => match line {
                Ok(line) if wanted(&line) => event(&line),
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(lost)) => Bytes::from(format!(": {lost} lines were lost\n\n")),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(b": still here\n\n"),
        };
        if events.send(part).await.is_err() {
            return;
        }
    }
}
