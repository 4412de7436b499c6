//! What a response needs of its request. It also sends the request's receipt.
//!
//! Invariant: the front door gets a receipt for every request. It is in the head of the response, or in a frame on the
//! control socket. If the client leaves and everything is dropped, dropping the [`ResponseContext`] sends the frame.

use crate::worker::context::WorkerContext;
use crate::worker::request_body::BodyComplete;
use crate::worker::request_limits::RequestLimits;
use crate::worker::running_requests::RunningGuard;
use crate::worker::usage::RequestUsage;
use gannet_base::hop::{Fault, FromWorker, WorkReport};
use gannet_base::names::RequestId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a response needs of its request. Dropping it sends the receipt, unless it was sent before.
pub(crate) struct ResponseContext {
    pub(crate) worker: Arc<WorkerContext>,
    pub(crate) usage: Arc<RequestUsage>,
    pub(crate) request: RequestId,
    /// Counts it as running.
    pub(crate) running: RunningGuard,
    pub(crate) limits: RequestLimits,
    /// Whether the request's method lets its response have a body.
    pub(crate) wants_body: bool,
    /// Whether the request's body was received completely.
    pub(crate) body_complete: BodyComplete,
    /// Whether the front door still waits for the receipt.
    pub(crate) receipt_owed: bool,
}

impl ResponseContext {
    /// Returns the receipt for the head of the response. If the request's body was not received completely, the
    /// connection may be closed before the head arrives, so the receipt is sent as a frame too; the front door takes
    /// the first.
    pub(super) fn receipt(mut self, fault: Option<Fault>) -> WorkReport {
        self.receipt_owed = false;
        let work = self.usage.work(fault);
        if !self.body_complete.load(Ordering::Relaxed) {
            let (worker, request, work) = (Arc::clone(&self.worker), self.request, work.clone());
            tokio::spawn(async move { send_work(&worker, request, work).await });
        }
        work
    }

    /// Sends the receipt as a frame, when the request's work on the GPU is done.
    pub(super) async fn send_receipt(self, fault: Option<Fault>) {
        self.usage.drain().await;
        let (worker, request) = (Arc::clone(&self.worker), self.request);
        let work = self.receipt(fault);
        send_work(&worker, request, work).await;
    }
}

impl Drop for ResponseContext {
    fn drop(&mut self) {
        if self.receipt_owed {
            let (worker, usage, request) = (Arc::clone(&self.worker), Arc::clone(&self.usage), self.request);
            tokio::spawn(async move {
                usage.drain().await;
                send_work(&worker, request, usage.work(None)).await;
            });
        }
    }
}

/// Sends a receipt as a frame.
pub(crate) async fn send_work(worker: &WorkerContext, request: RequestId, work: WorkReport) {
    if let Err(error) = worker.control.send(&FromWorker::Work { request, work }, &[]).await {
        tracing::debug!(%error, "a receipt could not be sent");
    }
}
