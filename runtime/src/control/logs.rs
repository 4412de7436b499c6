//! `/api/v1/functions/{name}/logs`: lines as JSON, or as Server-Sent Events with `follow=1`.

use super::{Acting, Control, ControlError, only};
use crate::inbound::Inbound;
use crate::logs::Line;
use crate::names::{FunctionName, RequestId};
use crate::registry::Snapshot;
use crate::respond::{Done, Refused, ResponseBody, json, stream};
use bytes::Bytes;
use http::{Method, Response};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// Events that may wait for a slow follower.
const EVENTS_CAPACITY: usize = 256;
/// A comment line at this interval keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Control {
    pub(super) fn read_logs(
        &self,
        inbound: &Inbound,
        acting: &Acting,
        name: &FunctionName,
        snapshot: &Snapshot,
    ) -> Result<Response<ResponseBody>, Refused> {
        only(inbound, &[Method::GET], "GET")?;
        acting.needs(acting.scopes.read, "read")?;
        snapshot.function(acting.tenant.as_str(), name.as_str()).ok_or(ControlError::NotFound)?;
        let (mut follow, mut request) = (false, None);
        for pair in inbound.parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("follow", value)) => follow = value == "1" || value == "true",
                Some(("request", id)) => {
                    let id = RequestId::parse(id);
                    request = Some(id.ok_or_else(|| ControlError::Invalid("request is not a request id".into()))?);
                }
                _ => {
                    return Err(ControlError::Invalid(format!(
                        "unknown argument {pair:?}; there are follow and request"
                    ))
                    .into());
                }
            }
        }
        let wanted = move |line: &Line| request.is_none_or(|id| id == line.request);
        let (mut lines, followed) = self.logs.read(&acting.tenant, name);
        lines.retain(wanted);
        if !follow {
            return Ok(json(Done::Ok, &serde_json::json!({ "lines": lines })));
        }
        let (sender, receiver) = mpsc::channel(EVENTS_CAPACITY);
        tokio::spawn(send(lines, followed, sender, wanted));
        Ok(stream("text/event-stream", ResponseBody::events(receiver)))
    }
}

fn event(line: &Line) -> Bytes {
    Bytes::from(format!("data: {}\n\n", serde_json::to_string(line).unwrap_or_default()))
}

async fn send(
    lines: Vec<Line>,
    mut followed: broadcast::Receiver<Line>,
    events: mpsc::Sender<Bytes>,
    wanted: impl Fn(&Line) -> bool,
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
