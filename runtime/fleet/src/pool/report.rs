//! Puts a worker's report of a request on the request's tab.

use super::error::DETAIL_CHARACTERS_MAX;
use super::worker::Worker;
use gannet_base::hop::{FaultCode, WorkReport};
use gannet_base::quota::account::WorkTimes;
use gannet_base::refusal::{Blame, MEMORY_LIMIT};
use gannet_state::tab::Tab;

/// Puts what a request has used on its tab, as far as it is known, if its report does not arrive: because the worker has
/// ended, or does not send it.
pub(super) fn record_lost(tab: &mut Tab, worker: &Worker) {
    let mut times = tab.reservation().take_times();
    match tab.opening().filter(|_| worker.dead().is_cancelled()) {
        // It held the GPU for the request, whatever it had told.
        Some((began, before)) => times.gpu_ns = worker.bill_lost_report(began, before),
        None => times.gpu_ns = worker.bill_gpu(times.gpu_ns),
    }
    tab.add_lost_work(times);
}

/// Puts the times of the worker's report on the tab. Its GPU time is capped to what the worker held the GPU.
pub(super) fn record_work(tab: &mut Tab, mut work: WorkReport, worker: &Worker, claim_us: u64) {
    work.gpu_ns = worker.bill_gpu(work.gpu_ns);
    let times = WorkTimes { gpu_ns: work.gpu_ns, guest_ns: work.guest_ns };
    tab.reservation().progress(times);
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
            receipt.reached = (fault.code == FaultCode::MemoryLimit).then(|| MEMORY_LIMIT.to_owned());
            receipt.fault = Some(Blame::Function);
        });
    }
}
