//! CPU time of a guest: the thread's CPU clock around each poll of its future.
//!
//! A guest waits (for the GPU, bodies, timers) between polls, so waiting costs it no CPU time.

use crate::worker::epoch_ticker::EpochTicker;
use rustix::time::{ClockId, clock_gettime};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The CPU time of one request. The epoch callback reads it too, to enforce the limit.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    /// CPU time of finished polls.
    used_ns: AtomicU64,
    /// The thread's CPU clock when the current poll began; 0 between polls.
    poll_began_ns: AtomicU64,
    /// Wall-clock time between polls.
    idle_ns: AtomicU64,
}

/// Reads the thread's CPU clock.
fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl CpuMeter {
    /// CPU time so far. Includes the current poll if it is called from inside it.
    pub(crate) fn used_now_ns(&self) -> u64 {
        let began = self.poll_began_ns.load(Ordering::Relaxed);
        let current = if began == 0 { 0 } else { thread_ns().saturating_sub(began) };
        self.used_ns() + current
    }

    /// Adds CPU time that was used outside the guest's future.
    pub(crate) fn add(&self, time: Duration) {
        self.used_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Wall-clock time that the guest waited, for whatever reason.
    pub(crate) fn idle_ns(&self) -> u64 {
        self.idle_ns.load(Ordering::Relaxed)
    }

    /// CPU time of finished polls.
    pub(crate) fn used_ns(&self) -> u64 {
        self.used_ns.load(Ordering::Relaxed)
    }
}

/// A future whose polls are charged to a meter.
pub(crate) struct MeteredFuture<F> {
    future: Pin<Box<F>>,
    meter: Arc<CpuMeter>,
    epoch_ticker: Arc<EpochTicker>,
    /// When the last poll ended.
    idle_since: Option<Instant>,
}

impl<F> MeteredFuture<F> {
    pub(crate) fn new(future: F, meter: Arc<CpuMeter>, epoch_ticker: Arc<EpochTicker>) -> Self {
        Self { future: Box::pin(future), meter, epoch_ticker, idle_since: None }
    }
}

impl<F: Future> Future for MeteredFuture<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let epoch_ticker = Arc::clone(&self.epoch_ticker);
        let _ticking = epoch_ticker.keep_ticking();
        if let Some(since) = self.idle_since.take() {
            let idle = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.meter.idle_ns.fetch_add(idle, Ordering::Relaxed);
        }
        let began = thread_ns();
        self.meter.poll_began_ns.store(began.max(1), Ordering::Relaxed);
        let result = self.future.as_mut().poll(context);
        self.meter.poll_began_ns.store(0, Ordering::Relaxed);
        self.meter.used_ns.fetch_add(thread_ns().saturating_sub(began), Ordering::Relaxed);
        self.idle_since = result.is_pending().then(Instant::now);
        result
    }
}
