//! Seats: the open connections of a listener, and which of them makes room when all seats are taken.
//!
//! ```text
//!  a seat is free ──────────────────────────▶ it is taken
//!  none, but some connections are idle ─────▶ one of those makes room: first those that never showed a valid key, then
//!                                             those of the tenant with the most; of these the one that is idle longest
//!  none, and all are busy or new ───────────▶ a seat of the reserve, until its time is over or it shows a valid key
//!  none, and the reserve is taken too ──────▶ a new connection makes room, of the network that has the most new ones
//!  none, and all are busy ──────────────────▶ the connection waits
//! ```
//!
//! So whoever opens connections and leaves them idle, or keeps them busy without a key, locks nobody out that has a key.
//!
//! A connection is *new* until its first request, for a short time. It is *busy* while a request is being served and
//! while its response is being sent, and idle otherwise. If its client takes nothing of any response for too long, the
//! connection is *stuck* and is closed.

use gannet_base::quota::address::client_network;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The bit of [`Seat::busy`] that says that the connection makes room. It can become busy no more.
const EVICTED: usize = 1 << (usize::BITS - 1);
/// The value of [`Seat::owner`] of a connection that showed no valid key.
const NOBODY: u64 = 0;
/// The value of [`Seat::owner`] of the operator's connections.
const OPERATOR: u64 = u64::MAX;

/// How many seats a listener has, and for how long some may be held.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeatLimits {
    /// Seats without the reserve.
    pub(super) most: usize,
    /// Seats of the reserve.
    pub(super) reserve: usize,
    /// How long a connection is new, and how long one of the reserve has to show a valid key.
    pub(super) key_wait: Duration,
}

/// The seats of a listener.
#[derive(Debug)]
pub(super) struct Seats {
    limits: SeatLimits,
    began: Instant,
    taken: Mutex<HashMap<u64, Arc<Seat>>>,
    next: AtomicU64,
    /// Whether somebody waits for a seat.
    is_awaited: AtomicBool,
    /// Notified when a connection ends or becomes idle, if somebody waits.
    freed: Notify,
}

/// The seat of one connection.
#[derive(Debug)]
pub(super) struct Seat {
    network: IpAddr,
    began: Instant,
    began_ms: u64,
    /// Whether it is of the reserve.
    reserved: bool,
    /// Requests and responses, and [`EVICTED`].
    busy: AtomicUsize,
    /// Requests that are being served, and responses that wait for a function.
    waiting: AtomicUsize,
    /// When something last happened, in milliseconds since the listener began.
    active_ms: AtomicU64,
    had_request: AtomicBool,
    /// A number for the tenant whose valid key it showed last.
    owner: AtomicU64,
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
    /// Whether it waits for a function, and not for the client.
    waits: bool,
}

impl Seats {
    pub(super) fn new(limits: SeatLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            began: Instant::now(),
            taken: Mutex::default(),
            next: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            freed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn free(&self) {
        if self.is_awaited.load(Ordering::SeqCst) {
            self.freed.notify_waiters();
        }
    }

    /// Gives a connection a seat. Waits while all are busy.
    pub(super) async fn enter(self: &Arc<Self>, peer: IpAddr) -> SeatGuard {
        loop {
            if let Some(guard) = self.try_enter(peer) {
                return guard;
            }
            let freed = self.freed.notified();
            self.is_awaited.store(true, Ordering::SeqCst);
            // Again, because a seat may have been freed before `is_awaited` was set.
            if let Some(guard) = self.try_enter(peer) {
                self.is_awaited.store(false, Ordering::SeqCst);
                return guard;
            }
            freed.await;
            self.is_awaited.store(false, Ordering::SeqCst);
        }
    }

    fn try_enter(self: &Arc<Self>, peer: IpAddr) -> Option<SeatGuard> {
        let SeatLimits { most, reserve, key_wait } = self.limits;
        let mut taken = self.lock();
        if taken.len() >= most {
            let age = Age { now_ms: self.now_ms(), new_ms: u64::try_from(key_wait.as_millis()).unwrap_or(u64::MAX) };
            let is_full = taken.len() >= most + reserve;
            let mut left = longest_idle(&taken, age);
            if left.is_none() && is_full {
                left = of_the_greediest_network(&taken, age);
            }
            match left.and_then(|number| taken.remove(&number)) {
                Some(seat) => seat.evicted.cancel(),
                None if is_full => return None,
                None => {}
            }
        }
        let now_ms = self.now_ms();
        let seat = Arc::new(Seat {
            network: client_network(peer),
            began: self.began,
            began_ms: now_ms,
            reserved: taken.len() >= most,
            busy: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            active_ms: AtomicU64::new(now_ms),
            had_request: AtomicBool::new(false),
            owner: AtomicU64::new(NOBODY),
            evicted: CancellationToken::new(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        taken.insert(number, Arc::clone(&seat));
        Some(SeatGuard { seats: Arc::clone(self), number, seat })
    }
}

/// The time, and for how long a connection is new, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Age {
    now_ms: u64,
    new_ms: u64,
}

/// Finds the idle connection that makes room first, and marks it. New ones are left.
fn longest_idle(taken: &HashMap<u64, Arc<Seat>>, age: Age) -> Option<u64> {
    let mut of_owner: HashMap<u64, usize> = HashMap::new();
    for seat in taken.values() {
        *of_owner.entry(seat.owner.load(Ordering::Relaxed)).or_default() += 1;
    }
    let order = |number: u64, seat: &Seat| {
        let owner = seat.owner.load(Ordering::Relaxed);
        let rank = match owner {
            NOBODY => (0, 0),
            OPERATOR => (2, 0),
            _ => (1, usize::MAX - of_owner.get(&owner).copied().unwrap_or(0)),
        };
        (rank, seat.active_ms.load(Ordering::Relaxed), number)
    };
    let idle = taken.iter().filter(|(_, seat)| seat.is_idle() && !seat.is_new(age));
    let mut all: Vec<_> = idle.map(|(number, seat)| (order(*number, seat), seat)).collect();
    // Almost always the first can be evicted; it cannot if a request has just begun.
    while let Some(at) = (0..all.len()).min_by_key(|at| all.get(*at).map(|(order, _)| *order)) {
        let ((.., number), seat) = all.swap_remove(at);
        if seat.evict() {
            return Some(number);
        }
    }
    None
}

/// Finds the oldest new connection of the network that has the most of them, and marks it.
fn of_the_greediest_network(taken: &HashMap<u64, Arc<Seat>>, age: Age) -> Option<u64> {
    let new = || taken.iter().filter(|(_, seat)| seat.is_idle() && seat.is_new(age));
    let mut of_network: HashMap<IpAddr, usize> = HashMap::new();
    new().for_each(|(_, seat)| *of_network.entry(seat.network).or_default() += 1);
    let greediest = of_network.into_iter().max_by_key(|(_, count)| *count)?.0;
    let mut of_it: Vec<_> = new().filter(|(_, seat)| seat.network == greediest).collect();
    of_it.sort_by_key(|(number, _)| **number);
    of_it.into_iter().find(|(_, seat)| seat.evict()).map(|(number, _)| *number)
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0
    }

    fn is_new(&self, age: Age) -> bool {
        !self.had_request.load(Ordering::Relaxed) && self.began_ms.saturating_add(age.new_ms) > age.now_ms
    }

    /// Refuses further requests of the connection, which is about to be closed.
    fn close(&self) {
        self.busy.fetch_or(EVICTED, Ordering::SeqCst);
    }

    /// Marks an idle connection, so that it can become busy no more. Returns whether it was idle.
    fn evict(&self) -> bool {
        self.busy.compare_exchange(0, EVICTED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Notes that a request of the connection had a valid key: of a tenant, or the operator's.
    pub(super) fn prove(&self, tenant: Option<&str>) {
        let owner = tenant.map_or(OPERATOR, |tenant| {
            let mut hasher = DefaultHasher::new();
            tenant.hash(&mut hasher);
            hasher.finish().clamp(NOBODY + 1, OPERATOR - 1)
        });
        self.owner.store(owner, Ordering::Relaxed);
    }

    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active_ms.fetch_max(now, Ordering::Relaxed);
    }
}

impl SeatGuard {
    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Marks the connection as busy with a request until the guard is dropped. None if it must make room.
    pub(super) fn busy(&self) -> Option<Busy> {
        let more = |busy: usize| (busy & EVICTED == 0).then_some(busy + 1);
        self.seat.busy.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        self.seat.had_request.store(true, Ordering::Relaxed);
        self.seat.waiting.fetch_add(1, Ordering::AcqRel);
        Some(Busy { seats: Arc::clone(&self.seats), seat: Arc::clone(&self.seat), waits: true })
    }

    fn quiet(&self) -> Duration {
        let since = self.seat.active_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.seats.now_ms().saturating_sub(since))
    }

    /// Ends the connection if it has been idle for this long: then it can become busy no more.
    pub(super) fn end_idle(&self, longest: Duration) -> bool {
        self.seat.is_idle() && self.quiet() >= longest && self.seat.evict()
    }

    /// Returns for how long the client has taken nothing of any response. Zero if something is awaited from a function.
    pub(super) fn stuck(&self) -> Duration {
        let is_stuck = !self.seat.is_idle() && self.seat.waiting.load(Ordering::Acquire) == 0;
        if is_stuck { self.quiet() } else { Duration::ZERO }
    }

    /// Waits until the connection must end: because it makes room, or because it is of the reserve and shows no key.
    pub(super) async fn must_end(&self) {
        while self.seat.reserved && self.seat.owner.load(Ordering::Relaxed) == NOBODY {
            tokio::select! {
                () = self.seat.evicted.cancelled() => return,
                () = tokio::time::sleep(self.seats.limits.key_wait) => {}
            }
            let is_over_full = self.seats.lock().len() > self.seats.limits.most;
            if is_over_full && self.seat.owner.load(Ordering::Relaxed) == NOBODY {
                self.seat.close();
                return;
            }
        }
        self.seat.evicted.cancelled().await;
    }
}

impl Busy {
    /// Notes that the function gave something, or that the client asks for more: whether a function is now awaited.
    pub(super) fn awaits(&mut self, function: bool) {
        self.seat.touch();
        match (self.waits, function) {
            (true, false) => self.seat.waiting.fetch_sub(1, Ordering::AcqRel),
            (false, true) => self.seat.waiting.fetch_add(1, Ordering::AcqRel),
            _ => return,
        };
        self.waits = function;
    }
}

impl Drop for SeatGuard {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
        self.seats.free();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.awaits(false);
        if self.seat.busy.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.seats.free();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY_WAIT: Duration = Duration::from_millis(20);

    fn seats(most: usize, reserve: usize, key_wait: Duration) -> Arc<Seats> {
        Seats::new(SeatLimits { most, reserve, key_wait })
    }

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// A connection that has had a request and is idle.
    fn used(seats: &Arc<Seats>, key: Option<&str>) -> SeatGuard {
        let guard = seats.try_enter(peer(1)).unwrap();
        if key.is_some() {
            guard.seat().prove(key);
        }
        drop(guard.busy());
        guard
    }

    fn is_evicted(guard: &SeatGuard) -> bool {
        guard.seat.evicted.is_cancelled()
    }

    #[test]
    fn idle_connections_make_room_and_known_ones_last() {
        let seats = seats(5, 0, Duration::from_secs(9));
        let (stranger, friend) = (used(&seats, None), used(&seats, Some("friend")));
        let greedy = [used(&seats, Some("greedy")), used(&seats, Some("greedy"))];
        let busy = used(&seats, None);
        let request = busy.busy().unwrap();
        let newcomer = |seats: &Arc<Seats>| {
            let guard = seats.try_enter(peer(2)).unwrap();
            let request = guard.busy();
            (guard, request)
        };
        let _first = newcomer(&seats);
        assert!(is_evicted(&stranger) && stranger.busy().is_none(), "idle, and without a key");
        let _second = newcomer(&seats);
        assert!(is_evicted(&greedy[0]) && !is_evicted(&greedy[1]), "the tenant with the most, its longest idle");
        let _third = newcomer(&seats);
        let _fourth = newcomer(&seats);
        assert!(is_evicted(&greedy[1]) && is_evicted(&friend));
        assert!(seats.try_enter(peer(2)).is_none() && !is_evicted(&busy), "a busy one never makes room");
        drop(request);
        assert!(seats.try_enter(peer(2)).is_some() && is_evicted(&busy));
    }

    #[tokio::test]
    async fn if_all_are_busy_there_is_a_reserve_for_those_with_a_key() {
        let seats = seats(2, 2, KEY_WAIT);
        let guards: Vec<_> = (0..2).map(|_| seats.try_enter(peer(1)).unwrap()).collect();
        let busy: Vec<_> = guards.iter().map(|guard| guard.busy().unwrap()).collect();
        let stranger = seats.try_enter(peer(1)).unwrap();
        let stranger_busy = stranger.busy();
        let friend = seats.try_enter(peer(1)).unwrap();
        let both = (stranger_busy, friend.busy());
        assert!(seats.try_enter(peer(1)).is_none() && stranger.seat.reserved);
        friend.seat().prove(Some("friend"));
        stranger.must_end().await;
        assert!(tokio::time::timeout(KEY_WAIT * 2, friend.must_end()).await.is_err());
        assert!(tokio::time::timeout(KEY_WAIT * 2, guards[0].must_end()).await.is_err());
        let waiting = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.enter(peer(1)).await }
        });
        drop((both, busy));
        waiting.await.unwrap();
    }

    #[test]
    fn whoever_makes_room_for_a_seat_of_the_reserve_leaves_one_of_the_reserve() {
        let seats = seats(1, 2, Duration::ZERO);
        let first = seats.try_enter(peer(1)).unwrap();
        let _request = first.busy();
        for _ in 0..9 {
            let idle = seats.try_enter(peer(1)).unwrap();
            assert!(idle.seat.reserved, "however often it changes hands");
        }
    }

    #[test]
    fn a_new_connection_is_left_in_peace_until_the_reserve_is_full() {
        let seats = seats(1, 3, Duration::from_secs(9));
        let first = seats.try_enter(peer(1)).unwrap();
        let _request = first.busy();
        let one = seats.try_enter(peer(1)).unwrap();
        let flood = [seats.try_enter(peer(2)).unwrap(), seats.try_enter(peer(2)).unwrap()];
        let _next = seats.try_enter(peer(3)).unwrap();
        assert!(is_evicted(&flood[0]) && !is_evicted(&one), "of the network that has the most");
    }

    #[test]
    fn a_response_that_is_not_taken_makes_its_connection_stuck() {
        let seats = seats(1, 0, KEY_WAIT);
        let guard = seats.try_enter(peer(1)).unwrap();
        let mut response = guard.busy().unwrap();
        let later = || guard.seat.active_ms.store(0, Ordering::Relaxed);
        later();
        assert_eq!(guard.stuck(), Duration::ZERO, "a function is at work");
        response.awaits(false);
        later();
        assert_eq!(guard.stuck(), guard.quiet());
        response.awaits(true);
        assert!(guard.stuck() == Duration::ZERO && !guard.end_idle(Duration::ZERO));
        drop(response);
        assert!(guard.seat.is_idle() && guard.seat.waiting.load(Ordering::Relaxed) == 0);
        assert!(!guard.end_idle(Duration::from_secs(9)) && guard.busy().is_some());
        assert!(
            guard.end_idle(Duration::ZERO) && guard.busy().is_none(),
            "no request begins on a connection that ends"
        );
    }
}
