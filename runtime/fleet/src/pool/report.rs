//! Puts a worker's report of a request on the request's tab.

use super::error::DETAIL_CHARACTERS_MAX;
use super::worker::Worker;
use gannet_base::hop::{FaultCode, WorkReport};
use gannet_base::refusal::Blame;
use gannet_state::tab::Tab;

/// Puts what a request has used on its tab, as far as it is known, if its report will not arrive because the worker has
/// ended. Does nothing while the worker lives.
pub(super) fn record_lost(tab: &mut Tab, worker: &Worker) {
    if worker.dead().is_cancelled()
        && let Some((began, before)) = tab.opening()
    {
        tab.add_lost_work(worker.bill_lost_report(began, before));
    }
}

/// Puts the times of the worker's report on the tab. Its GPU time is capped to what the worker held the GPU.
pub(super) fn record_work(tab: &mut Tab, mut work: WorkReport, worker: &Worker, claim_us: u64) {
    worker.cap_gpu_time(&mut work);
    tab.work(&work, claim_us);
}

/// Puts the worker's report on the tab, with the guest's fault.
pub(super) fn record(tab: &mut Tab, work: WorkReport, worker: &Worker, claim_us: u64) {
    let fault = work.fault.clone();
    record_work(tab, work, worker, claim_us);
    if let Some(fault) = &fault {
        let detail: String = fault.detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        tab.update_receipt(|receipt| {
            receipt.error = Some(
                match fault.code {
                    FaultCode::DeadlineExceeded => "deadline_exceeded",
                    FaultCode::FunctionTrapped | FaultCode::MemoryLimit => "function_trapped",
                    FaultCode::Unavailable => "internal",
                }
                .into(),
            );
            receipt.error_detail = Some(detail);
            receipt.fault = Some(Blame::Function);
        });
    }
}
