//! Calls of a function by another function of its tenant: `http://{function}.gannet.internal/`.
//!
//! They come over the worker's socket like requests to other servers, and leave that path here: the front door serves
//! them itself, by [`SiblingCalls`]. The socket proves the tenant, and the request in flight that sends the call decides
//! its depth and its time. No header of the guest does.

use crate::calling::CallingRequest;
use bytes::Bytes;
use futures::future::BoxFuture;
use gannet_base::body::{BrokenOff, ResponseBody};
use gannet_base::hop::outbound::OutboundError;
use gannet_base::names::TenantName;
use gannet_base::siblings::calls_max;
use http::request::Parts;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Serves calls of functions by their siblings. The front door does.
pub trait SiblingCalls: Send + Sync + std::fmt::Debug {
    /// Serves a call. A refusal is a response too. Dropping the future or the body ends the call.
    fn call(&self, call: SiblingCall) -> BoxFuture<'static, Response<ResponseBody>>;
}

/// A call as it arrives. The guest chose all but the tenant and the caller.
#[derive(Debug)]
pub struct SiblingCall {
    /// The tenant of both functions.
    pub tenant: TenantName,
    /// The function as the host names it; perhaps none has this name.
    pub function: String,
    /// The request whose function calls.
    pub caller: Arc<CallingRequest>,
    /// Whether the URL begins with `http://` and has no other port than 80.
    pub is_plain: bool,
    /// Method, URI and headers.
    pub parts: Parts,
    /// The body.
    pub body: Incoming,
}

/// Serves a call. `asked_ms` is how long the guest waits at most for the head of the response.
pub(super) async fn answer(
    siblings: &dyn SiblingCalls,
    call: SiblingCall,
    asked_ms: Option<u64>,
) -> Result<Response<EndsWithCaller>, OutboundError> {
    call.caller.used().add_sibling_call();
    let ended = call.caller.ended().clone();
    let calling = siblings.call(call);
    let patience = async {
        match asked_ms {
            Some(asked_ms) => tokio::time::sleep(Duration::from_millis(asked_ms)).await,
            None => pending().await,
        }
    };
    let response = tokio::select! {
        biased;
        () = ended.cancelled() => return Err(OutboundError::Unreachable),
        response = calling => response,
        () = patience => return Err(OutboundError::Timeout),
    };
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_2;
    Ok(Response::from_parts(head, EndsWithCaller { body, ended: Box::pin(ended.cancelled_owned()) }))
}

/// The body of a call's response. It breaks off when the caller ends.
pub(super) struct EndsWithCaller {
    body: ResponseBody,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Body for EndsWithCaller {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ended.as_mut().poll(context).is_ready() {
            // This ends the called function.
            self.body = gannet_base::body::full(Bytes::new());
            return Poll::Ready(Some(Err(BrokenOff("the request that called has ended".into()))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The calls that run in one worker.
#[derive(Debug, Default)]
pub(super) struct RunningCalls(AtomicU32);

/// A call that runs in a worker, until it is dropped.
#[derive(Debug)]
pub(super) struct RunningCall(Arc<RunningCalls>);

/// As many calls of siblings run in the worker as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{running} calls of functions by others run in the worker; at depth {depth} there may be {limit}")]
pub struct WorkerFullOfCalls {
    /// How many run.
    pub running: u32,
    /// The depth of the call that was refused.
    pub depth: u8,
    /// How many may run for one more of that depth to begin.
    pub limit: u32,
}

impl RunningCalls {
    /// Counts a call of a depth, if there is room for it. It does not wait: its callers hold what it would wait for.
    pub(super) fn begin(self: &Arc<Self>, depth: u8) -> Result<RunningCall, WorkerFullOfCalls> {
        let limit = calls_max(depth);
        let more = |running: u32| (running < limit).then_some(running + 1);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(RunningCall(Arc::clone(self))),
            Err(running) => Err(WorkerFullOfCalls { running, depth, limit }),
        }
    }

    /// Whether a call of a depth would find room now.
    pub(super) fn has_room_at(&self, depth: u8) -> bool {
        self.0.load(Ordering::Acquire) < calls_max(depth)
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::siblings::{CALLS_MAX, DEPTH_MAX};

    #[test]
    fn deeper_calls_find_room_where_others_do_not() {
        let calls = Arc::<RunningCalls>::default();
        let mut held = Vec::new();
        for depth in 1..=DEPTH_MAX {
            while let Ok(call) = calls.begin(depth) {
                held.push(call);
            }
            assert_eq!(held.len(), calls_max(depth) as usize);
            assert!(!calls.has_room_at(depth) && (depth == DEPTH_MAX || calls.has_room_at(depth + 1)));
            let limit = calls_max(depth);
            assert_eq!(calls.begin(depth).unwrap_err(), WorkerFullOfCalls { running: limit, depth, limit });
        }
        assert_eq!(held.len(), CALLS_MAX as usize);
        drop(held);
        assert!(calls.begin(1).is_ok());
    }
}
