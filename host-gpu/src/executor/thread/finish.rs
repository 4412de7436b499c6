//! The end of slices: polls for them, charges them, and updates the pace of their kernels.

use super::GpuThread;
use crate::executor::in_flight::SliceInFlight;
use crate::executor::running_job::exhausted;
use crate::executor::slice::copy_ns;
use crate::executor::slice_meter::read_header;
use crate::kernel::Pace;
use crate::usage::Clock;
use gannet_gpu_protocol::lease;
use gannet_gpu_protocol::running_kernels::SLICES_IN_FLIGHT_MAX;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest wait in one poll. A job may be submitted this late behind a running one.
const POLL_MAX: Duration = Duration::from_millis(1);
/// The longest wait in one poll when nothing can be submitted before a slice ends. It is longer, because each wake
/// takes time from a software driver's threads.
const POLL_FULL_MAX: Duration = Duration::from_millis(20);

impl GpuThread {
    /// Waits for the oldest slice, one poll long, and finishes it if it has ended.
    pub(super) fn poll(&mut self) {
        let Some(oldest) = self.in_flight.front() else { return };
        let full = self.in_flight.len() >= SLICES_IN_FLIGHT_MAX || oldest.expected_ns >= lease::LONG_NS;
        let longest = if full { POLL_FULL_MAX } else { POLL_MAX };
        let waited = self
            .parts
            .device
            .poll(wgpu::PollType::Wait { submission_index: Some(oldest.index.clone()), timeout: Some(longest) });
        match waited {
            Ok(_) => {
                if let Some(finished) = self.in_flight.pop_front() {
                    self.finish(finished);
                }
            }
            Err(wgpu::PollError::Timeout) => {}
            Err(error) => {
                tracing::error!(%error, "the gpu cannot be polled");
                self.parts.lost.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Handles a slice that has ended: charges it, updates the pace of its kernels, and ends its job if it was the
    /// last.
    fn finish(&mut self, slice: SliceInFlight) {
        let now = Instant::now();
        let run = self.running.iter().position(|run| run.in_flight > 0);
        let header = match run.and_then(|at| self.running.get(at)).and_then(|run| run.job.readback.as_ref()) {
            Some(readback) if slice.header_in_readback => read_header(&readback.buffer),
            _ => {
                let header = read_header(&slice.meter.header_buffer);
                slice.meter.header_buffer.unmap();
                header
            }
        };
        let timestamps = header.filter(|_| slice.meter.timestamps.is_some());
        let (mut gpu_ns, clock) = self.clock.measure(timestamps, slice.submitted, now);
        if slice.compiles {
            gpu_ns = 0;
        }
        self.learn(&slice, gpu_ns);
        self.running_kernels.ends(slice.number);
        self.parts.meters.put_back(slice.meter);
        self.parts.counters.gpu_ns.fetch_add(gpu_ns, Ordering::Relaxed);
        let Some(run) = run.and_then(|at| self.running.get_mut(at)) else { return };
        run.in_flight -= 1;
        run.gpu_ns = run.gpu_ns.saturating_add(gpu_ns);
        run.slices += 1;
        if clock == Clock::Wall {
            run.clock = Clock::Wall;
        }
        if let Some(usage) = run.job.usage.as_ref().filter(|_| !slice.compiles) {
            usage.charge(gpu_ns, clock);
        }
        if header.is_some_and(|header| header.exhausted == slice.number) && run.failed.is_none() {
            run.failed = Some(exhausted(&slice.kernels, run.job.loop_work));
        }
        self.conclude();
    }

    /// Updates the measured speeds of copies and kernels. The time of a slice with several kernels is divided in
    /// proportion to their expected times.
    fn learn(&mut self, slice: &SliceInFlight, gpu_ns: u64) {
        if slice.kernels.is_empty() {
            if slice.bytes >= 1 << 20 {
                let new = u64::try_from((u128::from(gpu_ns) << 20) / u128::from(slice.bytes)).unwrap_or(u64::MAX);
                self.mebibyte_ns = (self.mebibyte_ns - self.mebibyte_ns / 4 + new / 4).max(1);
            }
            return;
        }
        let kernels_ns = gpu_ns.saturating_sub(copy_ns(slice.bytes, self.mebibyte_ns)).max(gpu_ns / 4);
        if let [(kernel, workgroups)] = slice.kernels.as_slice() {
            kernel.pace.measured(*workgroups, kernels_ns);
            return;
        }
        let expected = |pace: &Pace, workgroups| u128::from(pace.expected_ns(workgroups).max(1));
        let sum: u128 = slice.kernels.iter().map(|(kernel, workgroups)| expected(&kernel.pace, *workgroups)).sum();
        for (kernel, workgroups) in &slice.kernels {
            let share = u128::from(kernels_ns) * expected(&kernel.pace, *workgroups) / sum.max(1);
            kernel.pace.measured(*workgroups, u64::try_from(share).unwrap_or(u64::MAX));
        }
    }
}
