//! Workers' reports that arrive as frames, and what happens when the client leaves before the response.

use crate::admitted::Admitted;
use crate::pool::claim::WorkerClaim;
use crate::pool::connection::{Connection, NoResponse};
use crate::pool::report;
use crate::pool::request::HopRequest;
use crate::pool::worker::Worker;
use gannet_base::hop::WorkReport;
use gannet_base::hop::heads::ResponseHead;
use gannet_base::names::RequestId;
use gannet_base::quota::account::{ReachedCap, Reservation};
use gannet_base::refusal::Blame;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// A report that may arrive as a frame. Dropping this stops the wait for it.
#[derive(Debug)]
pub(crate) struct ExpectedReport {
    worker: Arc<Worker>,
    request: RequestId,
    receiver: Option<oneshot::Receiver<WorkReport>>,
}

impl ExpectedReport {
    pub(super) fn new(worker_claim: &WorkerClaim, request: RequestId, reservation: &Arc<Reservation>) -> Self {
        let worker = Arc::clone(worker_claim.worker());
        let receiver = Some(worker.expect_report(request, Arc::clone(reservation)));
        Self { worker, request, receiver }
    }

    /// Moves the expectation out.
    pub(super) fn take(&mut self) -> Self {
        Self { worker: Arc::clone(&self.worker), request: self.request, receiver: self.receiver.take() }
    }

    /// Polls for the report. `None` means that none will arrive.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<WorkReport>> {
        match &mut self.receiver {
            Some(receiver) => Pin::new(receiver).poll(context).map(Result::ok),
            None => Poll::Ready(None),
        }
    }

    /// Waits for the report of a guest that runs on after its response. Ends the guest after `longest`, or if its tenant
    /// reaches a cap, which is returned.
    pub(crate) async fn wait_or_stop(
        mut self,
        longest: Duration,
        reservation: &Reservation,
    ) -> (Option<WorkReport>, Option<ReachedCap>) {
        let waiting = std::future::poll_fn(|context| self.poll(context));
        let cap = tokio::select! {
            biased;
            report = tokio::time::timeout(longest, waiting) => match report {
                Ok(report) => return (report, None),
                Err(_) => None,
            },
            cap = reservation.over() => Some(cap),
        };
        (self.stop().await, cap)
    }

    /// Ends the guest, which may run on although its connection is closed, and waits for its report.
    pub(crate) async fn stop(self) -> Option<WorkReport> {
        self.worker.stop(self.request).await;
        self.wait(CUT_REPORT_WAIT_MAX).await
    }

    /// Waits for the report, at most for `longest`.
    pub(crate) async fn wait(mut self, longest: Duration) -> Option<WorkReport> {
        let waiting = std::future::poll_fn(|context| self.poll(context));
        tokio::time::timeout(longest, waiting).await.ok().flatten()
    }
}

/// The report of a request that was answered before its work was over.
#[derive(Debug)]
pub struct AwaitedReport {
    pub(super) expected: ExpectedReport,
    pub(super) worker_claim: WorkerClaim,
    pub(super) claim_us: u64,
}

impl AwaitedReport {
    /// Waits for the report in the background, puts it on the tab and closes that.
    pub fn settle(self, mut admitted: Admitted) {
        let Self { expected, worker_claim, claim_us } = self;
        tokio::spawn(async move {
            match expected.stop().await {
                Some(work) => report::record_work(&mut admitted.tab, work, worker_claim.worker(), claim_us),
                None => report::record_lost(&mut admitted.tab, worker_claim.worker()),
            }
            drop((admitted, worker_claim));
        });
    }
}

impl Drop for ExpectedReport {
    fn drop(&mut self) {
        if self.receiver.is_some() {
            self.worker.forget_report(self.request);
        }
    }
}

/// How long a request whose client has left may still take until the head of its response, so that nearly finished work
/// can finish.
pub(super) const CLIENT_GONE_GRACE: Duration = Duration::from_millis(50);
/// How long the report of a guest that was ended may take. It waits until the guest's work on the GPU is done.
const CUT_REPORT_WAIT_MAX: Duration = Duration::from_secs(12);

/// The connection, the request that was sent over it, and the head of its response.
type Sent = (Connection, HopRequest, Result<ResponseHead, NoResponse>);
/// Sends a request and waits for the head of its response.
pub(super) type Sending = Pin<Box<dyn Future<Output = Sent> + Send>>;

/// What a request holds until the head of its response arrives. If the client leaves before that, this is dropped.
/// Dropping it starts a task that waits for the worker's report, so that the work is billed.
pub(super) struct ClientGoneGuard {
    pub(super) id: RequestId,
    pub(super) claim_us: u64,
    pub(super) held: Option<(Admitted, WorkerClaim, ExpectedReport, Sending)>,
}

impl Drop for ClientGoneGuard {
    fn drop(&mut self) {
        let Some((mut admitted, worker_claim, expected, sending)) = self.held.take() else { return };
        tracing::debug!(request = %self.id, "the client left before its response");
        let claim_us = self.claim_us;
        tokio::spawn(async move {
            // If the guest is done, its report is in the head. If not, the guest is ended when the connection closes,
            // and its report arrives as a frame. A request that was never sent has no report.
            let known: Option<WorkReport> = match tokio::time::timeout(CLIENT_GONE_GRACE, sending).await {
                Ok((_, _, Ok(response))) => response.report.filter(|work| !work.unsettled),
                _ => None,
            };
            let work = match known {
                Some(work) => Some(work),
                None => expected.stop().await,
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
