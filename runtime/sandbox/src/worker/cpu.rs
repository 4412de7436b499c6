//! CPU time of a guest: the thread's CPU clock around each poll of its future. What a guest waits
//! for (GPU, bodies, timers) is between polls and costs it nothing.

use crate::worker::ticker::Ticker;
use rustix::time::{ClockId, clock_gettime};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// Nanoseconds of CPU time. Shared with the epoch callback, which enforces the limit.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    used_ns: AtomicU64,
    /// The thread's clock when the current poll began; 0 between polls.
    poll_began_ns: AtomicU64,
    /// Between polls, on the wall's clock.
    idle_ns: AtomicU64,
}

fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl CpuMeter {
    /// Time used so far, the current poll included when called from inside it.
    pub(crate) fn used_now_ns(&self) -> u64 {
        let began = self.poll_began_ns.load(Ordering::Relaxed);
        let current = if began == 0 { 0 } else { thread_ns().saturating_sub(began) };
        self.used_ns() + current
    }

    /// Time between polls: what the guest waited for, whatever it was.
    pub(crate) fn idle_ns(&self) -> u64 {
        self.idle_ns.load(Ordering::Relaxed)
    }

    /// Time used in finished polls.
    pub(crate) fn used_ns(&self) -> u64 {
        self.used_ns.load(Ordering::Relaxed)
    }
}

/// A future whose polls are charged to a meter.
pub(crate) struct Metered<F> {
    future: Pin<Box<F>>,
    meter: Arc<CpuMeter>,
    ticker: Arc<Ticker>,
    /// When the last poll ended.
    idle_since: Option<Instant>,
}

impl<F> Metered<F> {
    pub(crate) fn new(future: F, meter: Arc<CpuMeter>, ticker: Arc<Ticker>) -> Self {
        Self { future: Box::pin(future), meter, ticker, idle_since: None }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let ticker = Arc::clone(&self.ticker);
        let _ticking = ticker.poll();
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
