//! The begin of slices: chooses, records and submits them.

use super::GpuThread;
use crate::error;
use crate::executor::in_flight::SliceInFlight;
use crate::executor::job::Step;
use crate::executor::record;
use crate::executor::running_job::RunningJob;
use crate::executor::slice::{SlicePlan, StepPart, plan};
use crate::executor::slice_meter::SliceMeter;
use crate::kernel::Kernel;
use gannet_gpu_protocol::lease;
use gannet_gpu_protocol::running_kernels::SLICES_IN_FLIGHT_MAX;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl GpuThread {
    /// Submits the next slice, or ends the next job if it must stop. Returns false if there is nothing to submit now.
    pub(super) fn submit_next(&mut self) -> bool {
        if self.in_flight.len() >= SLICES_IN_FLIGHT_MAX {
            return false;
        }
        let Some(at) = self.next_run() else { return false };
        if let Some(run) = self.running.get_mut(at)
            && let Some(error) = run.stopped()
        {
            run.failed = Some(error);
            self.conclude();
            return true;
        }
        let Some(plan) = self.running.get(at).and_then(|run| self.plan(run)) else { return false };
        let in_flight_ns = self.in_flight.iter().map(|slice| slice.expected_ns.max(1)).sum();
        if !lease::fits_behind(in_flight_ns, plan.expected_ns, self.slice_ns()) {
            return false;
        }
        self.submit(at, &plan);
        true
    }

    fn slice_ns(&self) -> u64 {
        let [alone, contended] = self.parts.slice_ns;
        if self.lease.is_contended() { contended } else { alone }
    }

    /// Plans the next slice of a job. None if it must wait until a slice on the GPU was measured.
    fn plan(&self, run: &RunningJob) -> Option<SlicePlan> {
        if run.job.compiles {
            return Some(SlicePlan::compile());
        }
        let measuring = |kernel: &Arc<Kernel>| {
            self.in_flight.iter().any(|slice| slice.kernels.iter().any(|(other, _)| Arc::ptr_eq(other, kernel)))
        };
        plan(&run.job.steps, (run.step, run.done), self.slice_ns(), self.mebibyte_ns, measuring)
    }

    fn submit(&mut self, at: usize, plan: &SlicePlan) {
        self.slice_number = self.slice_number.checked_add(1).unwrap_or(1);
        let Self { parts, running, slice_number, running_kernels, .. } = self;
        let number = *slice_number;
        let Some(run) = running.get_mut(at) else { return };
        if !std::mem::replace(&mut run.began, true) {
            for staged in run.job.upload.iter_mut().chain(run.job.readback.iter_mut()) {
                staged.unmap();
            }
        }
        let last = plan.step >= run.job.steps.len();
        let scope = parts.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let meter = parts.meters.take();
        let header_in_readback = last && run.job.readback.is_some();
        let header = match &run.job.readback {
            Some(readback) if last => &readback.buffer,
            _ => &meter.header_buffer,
        };
        let (kernels, bytes) = contents(&run.job.steps, plan);
        running_kernels.begins(number, kernels.iter().map(|(kernel, _)| &kernel.source_hash));
        let commands = record::slice(&parts.device, &parts.flag, &run.job, plan, &meter, header, number);
        let index = parts.queue.submit([commands]);
        if let Some(error) = error::ready(scope.pop()).flatten() {
            run.failed = Some(error::from_wgpu(error));
            running_kernels.ends(number);
            self.conclude();
            return;
        }
        map_results(run, &meter, last, header_in_readback);
        (run.step, run.done, run.submitted_all) = (plan.step, plan.done, last);
        run.in_flight += 1;
        let compiles = run.job.compiles;
        self.parts.counters.round_trips.fetch_add(1, Ordering::Relaxed);
        let submitted = Instant::now();
        self.in_flight.push_back(SliceInFlight {
            index,
            submitted,
            meter,
            header_in_readback,
            kernels,
            bytes,
            number,
            expected_ns: plan.expected_ns,
            compiles,
        });
    }
}

/// Returns the kernels of a slice, each with its number of workgroups, and the bytes that the slice copies and clears.
fn contents(steps: &[Step], plan: &SlicePlan) -> (Vec<(Arc<Kernel>, u64)>, u64) {
    let mut kernels: Vec<(Arc<Kernel>, u64)> = Vec::new();
    let mut bytes = 0;
    for (step, part) in &plan.parts {
        match (steps.get(*step), part) {
            (Some(Step::Dispatch { kernel, .. }), StepPart::Grid(part)) => {
                match kernels.iter_mut().find(|(known, _)| Arc::ptr_eq(known, kernel)) {
                    Some((_, sum)) => *sum += part.workgroups(),
                    None => kernels.push((Arc::clone(kernel), part.workgroups())),
                }
            }
            (_, StepPart::Bytes { size, .. }) => bytes += size,
            _ => {}
        }
    }
    (kernels, bytes)
}

/// Requests the mappings of the buffers that a slice uses. It is called right after the submission, so that the poll
/// that sees the slice end finds the bytes mapped.
fn map_results(run: &mut RunningJob, meter: &SliceMeter, last: bool, header_in_readback: bool) {
    if last {
        if let Some(staged) = &mut run.job.upload {
            staged.map(wgpu::MapMode::Write);
        }
        if let Some(staged) = &mut run.job.readback {
            staged.map(wgpu::MapMode::Read);
        }
    }
    if !header_in_readback {
        meter.header_buffer.map_async(wgpu::MapMode::Read, .., |result| {
            if let Err(error) = result {
                tracing::error!(%error, "a slice's header could not be mapped");
            }
        });
    }
}
