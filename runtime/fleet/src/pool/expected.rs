//! Receipts that come as frames, and what happens when the client leaves before its answer.

use crate::admitted::Admitted;
use crate::pool::claim::WorkerClaim;
use crate::pool::report;
use crate::pool::request::RequestBody;
use crate::pool::worker::{Connection, Worker};
use gannet_base::hop::{WorkReport, header};
use gannet_base::names::RequestId;
use gannet_base::refusal::Blame;
use http::{Request, Response};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// A receipt that may come as a frame; nothing waits for it once this is dropped.
#[derive(Debug)]
pub(crate) struct ExpectedReport {
    worker: Arc<Worker>,
    request: RequestId,
    receiver: Option<oneshot::Receiver<WorkReport>>,
}

impl ExpectedReport {
    pub(super) fn new(worker_claim: &WorkerClaim, request: RequestId) -> Self {
        let worker = Arc::clone(worker_claim.worker());
        let receiver = Some(worker.expect_report(request));
        Self { worker, request, receiver }
    }

    /// Hands over the expectation.
    pub(super) fn take(&mut self) -> Self {
        Self { worker: Arc::clone(&self.worker), request: self.request, receiver: self.receiver.take() }
    }

    /// Polls for the receipt. `None`: there will be none.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<WorkReport>> {
        match &mut self.receiver {
            Some(receiver) => Pin::new(receiver).poll(context).map(Result::ok),
            None => Poll::Ready(None),
        }
    }

    /// Waits for the receipt.
    pub(crate) async fn wait(mut self, longest: Duration) -> Option<WorkReport> {
        let waiting = std::future::poll_fn(|context| self.poll(context));
        tokio::time::timeout(longest, waiting).await.ok().flatten()
    }
}

impl Drop for ExpectedReport {
    fn drop(&mut self) {
        if self.receiver.is_some() {
            self.worker.forget_report(self.request);
        }
    }
}

/// How long a request whose client has left may still take to its head: what is nearly done is let be done.
const CLIENT_GONE_GRACE: Duration = Duration::from_millis(50);
/// How long the report of a guest that was ended may take: it waits for what the guest left on the GPU.
pub(super) const CUT_MAX: Duration = Duration::from_secs(12);

/// The connection, and the head of the answer that came over it.
type Sent = (Connection, Result<Response<Incoming>, Option<Box<Request<RequestBody>>>>);
/// A request on its way to its head.
pub(super) type Sending = Pin<Box<dyn Future<Output = Sent> + Send>>;

/// What a request holds while its worker has it. When the client leaves in that time, the worker is still owed
/// its report, and the tenant its bill.
pub(super) struct ClientGoneGuard {
    pub(super) id: RequestId,
    pub(super) claim_us: u64,
    pub(super) held: Option<(Admitted, WorkerClaim, ExpectedReport, Sending)>,
}

impl Drop for ClientGoneGuard {
    fn drop(&mut self) {
        let Some((mut admitted, worker_claim, expected, sending)) = self.held.take() else { return };
        tracing::debug!(request = %self.id, "the client left before its answer");
        let claim_us = self.claim_us;
        tokio::spawn(async move {
            // A guest that is done has put its report into the head; one that is not is ended when the connection closes, and
            // then reports by itself. A request that never left has none.
            let known: Option<WorkReport> = match tokio::time::timeout(CLIENT_GONE_GRACE, sending).await {
                Ok((_, Ok(answer))) => {
                    let value = answer.headers().get(header::WORK);
                    value.and_then(|value| serde_json::from_slice(value.as_bytes()).ok())
                }
                _ => None,
            };
            let work = match known {
                Some(work) => Some(work),
                None => expected.wait(CUT_MAX).await,
            };
            match work {
                Some(work) => report::record(&mut admitted.tab, work, worker_claim.worker(), claim_us),
                None => report::record_lost(&mut admitted.tab, worker_claim.worker()),
            }
            admitted.tab.update_receipt(|receipt| {
                receipt.error = Some("client_closed".into());
                receipt.fault = Some(Blame::Caller);
            });
            drop(worker_claim);
        });
    }
}
