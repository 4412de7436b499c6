//! Advances the engine's epoch, but only while guests compute: an idle worker must cost nothing, and two hundred wakes
//! a second in each take time from whoever computes.
//!
//! Invariant: while a poll of a guest is under way, the epoch advances at least every two ticks.

use crate::engine;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use wasmtime::Engine;

/// Ticks without a guest after which the thread sleeps until there is one.
const QUIET_TICKS: u32 = 4;

/// The thread that ticks.
#[derive(Debug)]
pub(crate) struct Ticker {
    thread: Thread,
    shared: Arc<TickerState>,
}

#[derive(Debug, Default)]
struct TickerState {
    /// Polls of guests under way.
    polls: AtomicUsize,
    asleep: AtomicBool,
}

impl Ticker {
    /// Starts the thread; it lives as long as the engine.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let engine = engine.weak();
        let shared = Arc::new(TickerState::default());
        let theirs = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("epoch".into()).spawn(move || {
            let mut quiet = 0;
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(engine::EPOCH_TICK);
                quiet = if theirs.polls.load(Ordering::SeqCst) == 0 { quiet + 1 } else { 0 };
                if quiet >= QUIET_TICKS {
                    theirs.asleep.store(true, Ordering::SeqCst);
                    // A poll that began before the line above was not told to wake this thread; one that begins
                    // after it is. `park` returns at once if that has happened already.
                    while theirs.asleep.load(Ordering::SeqCst) && theirs.polls.load(Ordering::SeqCst) == 0 {
                        std::thread::park();
                    }
                    theirs.asleep.store(false, Ordering::SeqCst);
                    quiet = 0;
                }
            }
        })?;
        Ok(Self { thread: spawned.thread().clone(), shared })
    }

    /// Ticks until the guard is dropped.
    pub(crate) fn poll(&self) -> impl Drop + '_ {
        self.shared.polls.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) && self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
        Polling(&self.shared.polls)
    }
}

struct Polling<'a>(&'a AtomicUsize);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
