//! Seats: the open connections of a listener, and which of them makes room when all seats are taken.
//!
//! ```text
//!  a seat is free ─────────────────────────▶ it is taken
//!  none, but some connections are idle ────▶ one of those is closed: first those that never showed a valid key, then the
//!                                            one that has been idle longest
//!  none, and all are busy ─────────────────▶ a seat of the reserve, until its time is over or it shows a valid key
//!  none, and the reserve is taken too ─────▶ the connection waits in the kernel's queue
//! ```
//!
//! So whoever opens connections and leaves them idle, or keeps them busy without a key, locks nobody out that has a key.
//! A connection is busy from the head of a request to the end of its response, and idle otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The seats of a listener.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    reserve: usize,
    /// How long a connection of the reserve has to show a valid key.
    key_wait: Duration,
    began: Instant,
    taken: Mutex<HashMap<u64, Arc<Seat>>>,
    next: AtomicU64,
    /// Notified when a connection ends or becomes idle.
    freed: Notify,
}

/// The seat of one connection.
#[derive(Debug)]
pub(super) struct Seat {
    /// Whether it is of the reserve.
    reserved: bool,
    busy: AtomicUsize,
    /// When it became idle, in milliseconds since the listener began.
    idle_since_ms: AtomicU64,
    /// Whether it has shown a valid key.
    known: AtomicBool,
    /// Cancelled when the connection must make room.
    evicted: CancellationToken,
}

/// Holds a seat. Dropping it frees the seat.
#[derive(Debug)]
pub(super) struct SeatGuard {
    seats: Arc<Seats>,
    number: u64,
    seat: Arc<Seat>,
}

/// A request or response of a connection. While it exists, the connection is busy.
#[derive(Debug)]
pub(super) struct Busy {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
}

impl Seats {
    pub(super) fn new(most: usize, reserve: usize, key_wait: Duration) -> Arc<Self> {
        Arc::new(Self {
            most,
            reserve,
            key_wait,
            began: Instant::now(),
            taken: Mutex::default(),
            next: AtomicU64::new(0),
            freed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until [`Seats::enter`] would find a seat.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            let has_room = {
                let taken = self.lock();
                taken.len() < self.most + self.reserve || taken.values().any(|seat| seat.is_idle())
            };
            if has_room {
                return;
            }
            freed.await;
        }
    }

    /// Gives a connection a seat, by closing another one if need be. Returns None if all are busy.
    pub(super) fn enter(self: &Arc<Self>) -> Option<SeatGuard> {
        let mut taken = self.lock();
        let is_full = taken.len() >= self.most;
        let evicted = if is_full { first_to_go(&taken) } else { None };
        if let Some(seat) = evicted.and_then(|number| taken.remove(&number)) {
            seat.evicted.cancel();
        } else if is_full && taken.len() >= self.most + self.reserve {
            return None;
        }
        let seat = Arc::new(Seat {
            reserved: is_full && evicted.is_none(),
            busy: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(self.now_ms()),
            known: AtomicBool::new(false),
            evicted: CancellationToken::new(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        taken.insert(number, Arc::clone(&seat));
        Some(SeatGuard { seats: Arc::clone(self), number, seat })
    }
}

/// Returns the idle connection that makes room first.
fn first_to_go(taken: &HashMap<u64, Arc<Seat>>) -> Option<u64> {
    let idle = taken.iter().filter(|(_, seat)| seat.is_idle());
    let order = |(number, seat): &(&u64, &Arc<Seat>)| {
        (seat.known.load(Ordering::Relaxed), seat.idle_since_ms.load(Ordering::Relaxed), **number)
    };
    idle.min_by_key(order).map(|(number, _)| *number)
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    /// Notes that a request of the connection had a valid key.
    pub(super) fn prove(&self) {
        self.known.store(true, Ordering::Relaxed);
    }
}

impl SeatGuard {
    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(super) fn busy(&self) -> Busy {
        self.seat.busy.fetch_add(1, Ordering::Relaxed);
        Busy { seats: Arc::clone(&self.seats), seat: Arc::clone(&self.seat) }
    }

    /// Returns how long the connection has been idle. Zero if it is busy.
    pub(super) fn idle(&self) -> Duration {
        if !self.seat.is_idle() {
            return Duration::ZERO;
        }
        let since = self.seat.idle_since_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.seats.now_ms().saturating_sub(since))
    }

    /// Waits until the connection must end: because it makes room, or because it is of the reserve and shows no key.
    pub(super) async fn must_end(&self) {
        if self.seat.reserved {
            tokio::select! {
                () = self.seat.evicted.cancelled() => return,
                () = tokio::time::sleep(self.seats.key_wait) => {}
            }
            if !self.seat.known.load(Ordering::Relaxed) {
                return;
            }
        }
        self.seat.evicted.cancelled().await;
    }
}

impl Drop for SeatGuard {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
        self.seats.freed.notify_waiters();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.seat.busy.load(Ordering::Relaxed) == 1 {
            self.seat.idle_since_ms.store(self.seats.now_ms(), Ordering::Relaxed);
        }
        self.seat.busy.fetch_sub(1, Ordering::Relaxed);
        self.seats.freed.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY_WAIT: Duration = Duration::from_millis(20);

    #[test]
    fn idle_connections_make_room_and_known_ones_last() {
        let seats = Seats::new(3, 1, KEY_WAIT);
        let guards: Vec<_> = (0..3).map(|_| seats.enter().unwrap()).collect();
        guards[0].seat().prove();
        let busy = guards[1].busy();
        let fourth = seats.enter().unwrap();
        assert!(guards[2].seat.evicted.is_cancelled(), "idle, and without a key");
        let fifth = seats.enter().unwrap();
        assert!(fourth.seat.evicted.is_cancelled() && !guards[0].seat.evicted.is_cancelled());
        let busy_too = fifth.busy();
        let _sixth = seats.enter().unwrap().busy();
        assert!(guards[0].seat.evicted.is_cancelled(), "the only idle one");
        assert!(!guards[1].seat.evicted.is_cancelled(), "a busy one never makes room");
        drop((busy, busy_too));
    }

    #[tokio::test]
    async fn if_all_are_busy_there_is_a_reserve_for_those_with_a_key() {
        let seats = Seats::new(2, 2, KEY_WAIT);
        let guards: Vec<_> = (0..2).map(|_| seats.enter().unwrap()).collect();
        let busy: Vec<_> = guards.iter().map(SeatGuard::busy).collect();
        let stranger = seats.enter().unwrap();
        let stranger_busy = stranger.busy();
        let friend = seats.enter().unwrap();
        let both = (stranger_busy, friend.busy());
        assert!(seats.enter().is_none() && stranger.seat.reserved);
        assert!(tokio::time::timeout(KEY_WAIT / 2, seats.room()).await.is_err());
        friend.seat().prove();
        stranger.must_end().await;
        assert!(tokio::time::timeout(KEY_WAIT * 2, friend.must_end()).await.is_err());
        assert!(tokio::time::timeout(KEY_WAIT * 2, guards[0].must_end()).await.is_err());
        drop((both, busy));
        // They are idle now.
        seats.room().await;
    }
}
