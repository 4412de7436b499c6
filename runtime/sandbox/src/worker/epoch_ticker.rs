//! Advances the engine's epoch, but only while guests compute. An idle worker must cost nothing: 200 wakes a second in
//! each idle worker take time from the busy ones.
//!
//! Invariant: while a poll of a guest is under way, the epoch advances at least every two ticks.

use crate::engine;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use wasmtime::Engine;

/// After this many ticks without a guest, the thread sleeps until there is one.
const QUIET_TICKS: u32 = 4;

/// A handle to the thread that advances the epoch.
#[derive(Debug)]
pub(crate) struct EpochTicker {
    thread: Thread,
    state: Arc<TickerState>,
}

#[derive(Debug, Default)]
struct TickerState {
    /// Polls of guests under way.
    polls: AtomicUsize,
    /// Whether the thread sleeps or is about to.
    asleep: AtomicBool,
}

impl EpochTicker {
    /// Starts the thread, which lives as long as the engine.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let engine = engine.weak();
        let state = Arc::new(TickerState::default());
        let thread_state = Arc::clone(&state);
        let spawned = std::thread::Builder::new().name("epoch".into()).spawn(move || {
            let mut quiet_ticks = 0;
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(engine::EPOCH_TICK);
                quiet_ticks = if thread_state.polls.load(Ordering::SeqCst) == 0 { quiet_ticks + 1 } else { 0 };
                if quiet_ticks >= QUIET_TICKS {
                    thread_state.asleep.store(true, Ordering::SeqCst);
                    // A poll that begins after the line above wakes this thread. One that began before it does not, so
                    // this loop checks for it. `park` returns at once if the thread was woken already.
                    while thread_state.asleep.load(Ordering::SeqCst) && thread_state.polls.load(Ordering::SeqCst) == 0 {
                        std::thread::park();
                    }
                    thread_state.asleep.store(false, Ordering::SeqCst);
                    quiet_ticks = 0;
                }
            }
        })?;
        Ok(Self { thread: spawned.thread().clone(), state })
    }

    /// Keeps the epoch advancing until the guard is dropped. Hold it while a guest is polled.
    pub(crate) fn keep_ticking(&self) -> impl Drop + '_ {
        self.state.polls.fetch_add(1, Ordering::SeqCst);
        if self.state.asleep.load(Ordering::SeqCst) && self.state.asleep.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
        TickingGuard(&self.state.polls)
    }
}

struct TickingGuard<'a>(&'a AtomicUsize);

impl Drop for TickingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
