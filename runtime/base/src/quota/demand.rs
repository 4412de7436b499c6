//! What the requests of a version ask for, as the scaling of its workers sees it: how many ran or waited at once, since
//! when the oldest waits, and whether a call found its worker full. It also holds the number of workers that was decided from that.
//!
//! Invariant: a request that came and went between two looks is seen by the second one, because a look returns the most
//! that there was since the one before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The demand for one version.
#[derive(Debug, Default)]
pub struct Demand {
    /// The most requests that ran or waited at once since the last look.
    peak: AtomicUsize,
    waiting: Mutex<Waiting>,
    wanted: AtomicUsize,
    watched: AtomicBool,
    starting: AtomicUsize,
    /// Whether a call found its worker full of calls since the last look.
    found_full: AtomicBool,
}

/// When each waiting request began to wait.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

/// What a look has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The most requests that ran or waited at once since the last look.
    pub requests: usize,
    /// For how long the oldest of those that wait has waited.
    pub oldest: Duration,
    /// Whether a call found its worker full of calls.
    pub found_full: bool,
}

/// Counts a waiting request until it is dropped.
#[derive(Debug)]
pub struct WaitingRequest<'a> {
    demand: &'a Demand,
    number: u64,
}

/// Counts a request whose worker is being started or loads the version, until it is dropped.
#[derive(Debug)]
pub struct StartingRequest<'a>(&'a Demand);

impl Demand {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that waits from now on, while `running` others run.
    pub fn wait(&self, running: usize, now: Instant) -> WaitingRequest<'_> {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.since.insert(number, now);
        self.peak.fetch_max(running.saturating_add(waiting.since.len()), Ordering::Relaxed);
        WaitingRequest { demand: self, number }
    }

    /// Records the number of requests that run, for the peak.
    pub fn note(&self, running: usize) {
        self.peak.fetch_max(running, Ordering::Relaxed);
    }

    /// Notes that a call by another function found its worker full of calls.
    pub fn note_full(&self) {
        self.found_full.store(true, Ordering::Relaxed);
    }

    /// Returns what there was since the last look, while `running` requests run.
    pub fn look(&self, running: usize, now: Instant) -> Load {
        let (waiting, oldest) = {
            let waiting = self.waiting();
            (waiting.since.len(), waiting.since.values().next().copied())
        };
        let present = running.saturating_add(waiting);
        let requests = self.peak.swap(present, Ordering::Relaxed).max(present);
        let oldest = oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Load { requests, oldest, found_full: self.found_full.swap(false, Ordering::Relaxed) }
    }

    /// The number of workers that the version is spread over; at least 1.
    pub fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed).max(1)
    }

    /// Sets the number of workers. Only the pool's scaling does that.
    pub fn publish(&self, wanted: usize) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// The number of workers that was decided; 0 if nobody needs the version.
    pub fn decided(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Notes that the scaling watches the version, or not. Returns whether it did before.
    pub fn set_watched(&self, watched: bool) -> bool {
        self.watched.swap(watched, Ordering::SeqCst)
    }

    /// Counts a request that waits for the start of its worker or for the load of the version.
    pub fn begin_start(&self) -> StartingRequest<'_> {
        self.starting.fetch_add(1, Ordering::AcqRel);
        StartingRequest(self)
    }

    /// Whether a request waits for a start or a load.
    pub fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Acquire) > 0
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.demand.waiting().since.remove(&self.number);
    }
}

impl Drop for StartingRequest<'_> {
    fn drop(&mut self) {
        self.0.starting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_sees_what_came_and_went_since_the_last_one() {
        let (demand, now) = (Demand::default(), Instant::now());
        demand.note(3);
        demand.note_full();
        assert_eq!(demand.look(0, now), Load { requests: 3, oldest: Duration::ZERO, found_full: true });
        assert_eq!(demand.look(0, now), Load { requests: 0, oldest: Duration::ZERO, found_full: false });
        let first = demand.wait(2, now);
        let second = demand.wait(2, now + Duration::from_secs(1));
        let later = now + Duration::from_secs(5);
        assert_eq!(demand.look(2, later), Load { requests: 4, oldest: Duration::from_secs(5), found_full: false });
        drop(first);
        assert_eq!(demand.look(2, later).oldest, Duration::from_secs(4));
        drop(second);
        assert_eq!(demand.look(2, later), Load { requests: 3, oldest: Duration::ZERO, found_full: false });
        assert_eq!((demand.wanted(), demand.decided()), (1, 0));
        let starting = demand.begin_start();
        assert!(demand.is_starting());
        drop(starting);
        assert!(!demand.is_starting());
    }
}
