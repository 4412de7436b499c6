//! Permits to run a request: those of one version (its concurrency), and those of the whole server. Builds have permits
//! of the same kind.
//!
//! There is no deadlock: each request takes a permit of its version first and one of the server second. A request with
//! both waits for no other permit and runs to its end, so permits of the server become free, and then those of
//! versions. A request whose function calls another one waits for that call, which needs a permit of the other's
//! version. The call waits for nothing else, and not for long while all who hold such a permit are waiting themselves
//! ([`VersionPermits::acquire_for_call`]).

use crate::manifest::FunctionLimits;
use crate::names::{FunctionName, TenantName};
use crate::quota::demand::{Demand, Load};
use crate::quota::fair::{Acquired, FairPermits};
use crate::refusal::{Blame, Refusal, RefusalKind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// Why a request got no permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPermit {
    /// No permit of the version became free in time.
    #[error(
        "no permit became free within limits.queue_ms = {queue_ms}; the function runs limits.concurrency = {concurrency} requests at once"
    )]
    WaitedTooLong {
        /// The longest wait, in milliseconds (`limits.queue_ms`).
        queue_ms: u64,
        /// Requests that the version runs at once (`limits.concurrency`).
        concurrency: u64,
    },
    /// All who hold a permit of the version wait for other permits, some perhaps for what the call itself holds up.
    #[error(
        "all requests that the called function runs (limits.concurrency = {concurrency}) wait for permits themselves, or for this call"
    )]
    HeldByWaiters {
        /// Requests that the version runs at once (`limits.concurrency`).
        concurrency: u64,
    },
    /// All permits of the server are taken. The text does not say how many there are, because tenants must not learn
    /// that.
    #[error("the server is full")]
    ServerFull {
        /// Number of requests that already wait for a permit. Only the log has it.
        waiting: usize,
    },
}

impl From<NoPermit> for Refusal {
    fn from(error: NoPermit) -> Self {
        let refusal = |blame| Self::new(RefusalKind::Unavailable, "no_capacity", blame, &error).retry_after(1);
        match &error {
            NoPermit::WaitedTooLong { .. } => refusal(Blame::Caller),
            NoPermit::HeldByWaiters { .. } => Self { code: "call_deadlock", ..refusal(Blame::Caller) }.hint(
                "raise [limits] concurrency of the called function, or let functions not call each other in a circle",
            ),
            NoPermit::ServerFull { waiting } => {
                refusal(Blame::Platform).internal(format_args!("{waiting} requests wait for a permit of the server"))
            }
        }
    }
}

/// The permits of one version.
#[derive(Debug)]
pub struct VersionPermits {
    permits: Arc<Semaphore>,
    concurrency: u64,
    demand: Demand,
    /// How many of those that hold a permit wait for another one, themselves or through their calls.
    waiting_holders: AtomicUsize,
    /// Tells that this has changed.
    holders_changed: Notify,
}

/// Counts a holder of a permit of a version as waiting until it is dropped.
#[derive(Debug)]
pub struct WaitingHolder(Arc<VersionPermits>);

impl Drop for WaitingHolder {
    fn drop(&mut self) {
        self.0.waiting_holders.fetch_sub(1, Ordering::AcqRel);
        self.0.holders_changed.notify_waiters();
    }
}

/// How long a call waits at most while all holders of its version's permits wait themselves. That may pass, for instance
/// when the server becomes less full.
const STUCK_MAX: Duration = Duration::from_secs(1);

/// Returns since when all holders have been waiting, if they are.
fn stuck_since(before: Option<Instant>, all_wait: bool, now: Instant) -> Option<Instant> {
    all_wait.then(|| before.unwrap_or(now))
}

impl VersionPermits {
    /// Makes the permits of a version with these limits.
    pub fn new(limits: &FunctionLimits) -> Arc<Self> {
        let permits = usize::try_from(limits.concurrency).unwrap_or(1);
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(permits)),
            concurrency: limits.concurrency,
            demand: Demand::default(),
            waiting_holders: AtomicUsize::new(0),
            holders_changed: Notify::new(),
        })
    }

    /// Takes a permit, if one is free.
    pub fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        self.demand.note(self.running());
        Some(permit)
    }

    /// How many permits are taken.
    pub fn running(&self) -> usize {
        let all = usize::try_from(self.concurrency).unwrap_or(1);
        all.saturating_sub(self.permits.available_permits())
    }

    /// What the version's requests ask for.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// Returns what the requests asked for since the last look.
    pub fn look(&self, now: std::time::Instant) -> Load {
        self.demand.look(self.running(), now)
    }

    /// Whether all permits are taken.
    pub fn are_all_taken(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Counts one holder of a permit as waiting for another permit.
    pub fn wait_as_holder(self: &Arc<Self>) -> WaitingHolder {
        self.waiting_holders.fetch_add(1, Ordering::AcqRel);
        self.holders_changed.notify_waiters();
        WaitingHolder(Arc::clone(self))
    }

    fn do_all_holders_wait(&self) -> bool {
        self.waiting_holders.load(Ordering::Acquire) as u64 >= self.concurrency
    }

    /// Waits for a permit for a call by another function, until a time. `own_holders` is how many of the requests that
    /// led to the call hold a permit of this version: if they hold all, the wait could never end, so there is none.
    ///
    /// A call waits only while a holder can go on, and [`STUCK_MAX`] longer. Proof that no circle of waits lasts: in a
    /// circle, each call waits for a version all of whose holders wait, so each of them ends after that time.
    pub async fn acquire_for_call(
        &self,
        own_holders: usize,
        until: Instant,
        queue_ms: u64,
    ) -> Result<OwnedSemaphorePermit, NoPermit> {
        let concurrency = self.concurrency;
        if own_holders as u64 >= concurrency {
            return Err(NoPermit::HeldByWaiters { concurrency });
        }
        let _waiting = self.demand.wait(self.running(), std::time::Instant::now());
        let acquire = Arc::clone(&self.permits).acquire_owned();
        tokio::pin!(acquire);
        let mut stuck = None;
        loop {
            let changed = self.holders_changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change is missed.
            changed.as_mut().enable();
            stuck = stuck_since(stuck, self.do_all_holders_wait(), Instant::now());
            let end = stuck.map_or(until, |since| until.min(since + STUCK_MAX));
            tokio::select! {
                biased;
                permit = &mut acquire => return permit.map_err(|_| NoPermit::HeldByWaiters { concurrency }),
                () = changed => {}
                () = tokio::time::sleep_until(end) => {
                    let is_late = end == until;
                    return Err(if is_late {
                        NoPermit::WaitedTooLong { queue_ms, concurrency }
                    } else {
                        NoPermit::HeldByWaiters { concurrency }
                    });
                }
            }
        }
    }

    /// Waits for a permit until a time. `queue_ms` is only for the error.
    pub async fn acquire(&self, until: Instant, queue_ms: u64) -> Result<OwnedSemaphorePermit, NoPermit> {
        let _waiting = self.demand.wait(self.running(), std::time::Instant::now());
        self.acquire_uncounted(until, queue_ms).await
    }

    /// Does the same for a job, which is counted in its queue.
    pub async fn acquire_uncounted(&self, until: Instant, queue_ms: u64) -> Result<OwnedSemaphorePermit, NoPermit> {
        match timeout_at(until, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(NoPermit::WaitedTooLong { queue_ms, concurrency: self.concurrency }),
        }
    }
}

/// Who holds a permit: a tenant, and its function if it asked with one.
type Owner = (TenantName, Option<FunctionName>);

/// Who waits, and the channel by which it gets its permit.
type Waiter = (Owner, oneshot::Sender<ServerPermit>);

/// The permits of the whole server. They bound its memory, and are shared fairly among tenants when all are taken.
#[derive(Debug)]
pub struct ServerPermits {
    permits: Mutex<FairPermits<Waiter>>,
    waiting_max: usize,
    /// When a tenant was last charged.
    charged: Mutex<Instant>,
}

/// After this time what a tenant has used counts half.
const USE_HALVES_AFTER: Duration = Duration::from_secs(600);

/// A permit of the server. Dropping it gives it back.
#[derive(Debug)]
pub struct ServerPermit {
    server: Arc<ServerPermits>,
    owner: Option<Owner>,
}

impl ServerPermits {
    /// Makes `limit` permits, for which at most `waiting_max` requests may wait.
    pub fn new(limit: usize, waiting_max: usize) -> Arc<Self> {
        Self::with_tenant_max(limit, usize::MAX, waiting_max)
    }

    /// Does the same, and one tenant may hold at most `tenant_max` permits.
    pub fn with_tenant_max(limit: usize, tenant_max: usize, waiting_max: usize) -> Arc<Self> {
        let permits = Mutex::new(FairPermits::new(limit, tenant_max));
        Arc::new(Self { permits, waiting_max, charged: Mutex::new(Instant::now()) })
    }

    /// Records how long a tenant has held a permit. Tenants that have held permits for less time recently get the next
    /// ones first.
    pub fn charge(&self, tenant: &TenantName, held: Duration) {
        let now = Instant::now();
        let before = std::mem::replace(&mut *self.charged.lock().unwrap_or_else(PoisonError::into_inner), now);
        let halves = now.duration_since(before).as_secs_f64() / USE_HALVES_AFTER.as_secs_f64();
        let held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        self.lock().charge(tenant, held_us, 0.5_f64.powf(halves));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FairPermits<Waiter>> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit, if one is free. It overtakes nobody: a permit is free only while no request waits.
    pub fn try_acquire(self: &Arc<Self>, tenant: &TenantName) -> Option<ServerPermit> {
        let taken = self.lock().try_acquire(tenant);
        taken.then(|| ServerPermit { server: Arc::clone(self), owner: Some((tenant.clone(), None)) })
    }

    /// Takes a permit, or waits for one until a time if all are taken.
    pub async fn acquire(self: &Arc<Self>, tenant: &TenantName, until: Instant) -> Result<ServerPermit, NoPermit> {
        self.acquire_as((tenant.clone(), None), until).await
    }

    /// Does the same for a function, which gets one before those functions of its tenant that hold more.
    pub async fn acquire_for(
        self: &Arc<Self>,
        tenant: &TenantName,
        function: &FunctionName,
        until: Instant,
    ) -> Result<ServerPermit, NoPermit> {
        self.acquire_as((tenant.clone(), Some(function.clone())), until).await
    }

    async fn acquire_as(self: &Arc<Self>, owner: Owner, until: Instant) -> Result<ServerPermit, NoPermit> {
        let (tenant, function) = &owner;
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut permits = self.lock();
            if permits.waiting() >= self.waiting_max {
                return Err(NoPermit::ServerFull { waiting: permits.waiting() });
            }
            match permits.ask(tenant, function.as_ref(), (owner.clone(), sender)) {
                Acquired::Now(_) => return Ok(ServerPermit { server: Arc::clone(self), owner: Some(owner.clone()) }),
                Acquired::Queued(number) => number,
            }
        };
        let leaving = LeaveQueueOnDrop { server: self, tenant, number };
        let permit = timeout_at(until, receiver).await;
        // If the wait timed out and a permit was sent meanwhile, dropping the receiver has dropped it and given it
        // back.
        drop(leaving);
        let granted = permit.ok().and_then(Result::ok);
        granted.ok_or_else(|| NoPermit::ServerFull { waiting: self.lock().waiting() })
    }
}

/// Leaves the queue when dropped, also when the waiting future was cancelled.
struct LeaveQueueOnDrop<'a> {
    server: &'a Arc<ServerPermits>,
    tenant: &'a TenantName,
    number: u64,
}

impl Drop for LeaveQueueOnDrop<'_> {
    fn drop(&mut self) {
        self.server.lock().leave(self.tenant, self.number);
    }
}

impl Drop for ServerPermit {
    fn drop(&mut self) {
        let mut owner = self.owner.take();
        // A waiter that has just left cannot take the permit. Then the next waiter gets it.
        while let Some((tenant, function)) = owner.take() {
            let waiter = self.server.lock().release(&tenant, function.as_ref());
            let Some((next, sender)) = waiter else { return };
            let permit = ServerPermit { server: Arc::clone(&self.server), owner: Some(next) };
            if let Err(mut unsent) = sender.send(permit) {
                owner = unsent.owner.take();
            }
        }
    }
}

/// Returns the time at which a wait for permits ends: after `queue_ms`, but not after the deadline.
pub fn until(queue_ms: u64, deadline: Instant) -> Instant {
    deadline.min(Instant::now() + Duration::from_millis(queue_ms))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> TenantName {
        TenantName::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_wait_ends_with_a_place_or_at_its_limit() {
        let permits = VersionPermits::new(&FunctionLimits { concurrency: 1, ..FunctionLimits::default() });
        let first = permits.try_acquire().unwrap();
        let now = Instant::now();
        assert!(matches!(permits.acquire(now, 1).await, Err(NoPermit::WaitedTooLong { queue_ms: 1, concurrency: 1 })));
        drop(first);
        assert!(permits.acquire(now + Duration::from_secs(9), 1).await.is_ok());
    }

    fn version(concurrency: u64) -> Arc<VersionPermits> {
        VersionPermits::new(&FunctionLimits { concurrency, ..FunctionLimits::default() })
    }

    #[tokio::test]
    async fn a_call_waits_while_a_holder_can_go_on_and_not_for_its_own_callers() {
        let (permits, hour) = (version(2), Instant::now() + Duration::from_secs(3600));
        let (first, second) = (permits.try_acquire().unwrap(), permits.try_acquire().unwrap());
        let full = NoPermit::HeldByWaiters { concurrency: 2 };
        assert_eq!(permits.acquire_for_call(2, hour, 1).await.unwrap_err(), full);
        let one_waits = permits.wait_as_holder();
        let late = permits.acquire_for_call(1, Instant::now(), 7).await.unwrap_err();
        assert_eq!(late, NoPermit::WaitedTooLong { queue_ms: 7, concurrency: 2 });
        let other_waits = permits.wait_as_holder();
        assert_eq!(permits.acquire_for_call(1, hour, 7).await.unwrap_err(), full, "both wait");
        let goes_on = async {
            tokio::task::yield_now().await;
            drop(other_waits);
            drop(first);
        };
        let (called, ()) = tokio::join!(permits.acquire_for_call(0, hour, 7), goes_on);
        assert!(called.is_ok());
        drop((second, one_waits));
        assert!(permits.acquire_for_call(0, hour, 7).await.is_ok());
    }

    #[test]
    fn a_holder_that_goes_on_gives_the_calls_their_time_again() {
        let (early, now) = (Instant::now(), Instant::now() + Duration::from_millis(1));
        assert_eq!(stuck_since(None, true, now), Some(now));
        assert_eq!(stuck_since(Some(early), true, now), Some(early));
        assert_eq!(stuck_since(Some(early), false, now), None);
    }

    /// Two functions that run one request each and call each other.
    #[tokio::test]
    async fn calls_in_a_circle_end() {
        let (a, b) = (version(1), version(1));
        let hour = Instant::now() + Duration::from_secs(3600);
        let held = (a.try_acquire().unwrap(), b.try_acquire().unwrap());
        let call = async |from: &Arc<VersionPermits>, to: &Arc<VersionPermits>, own| {
            let waiting = from.wait_as_holder();
            let called = to.acquire_for_call(0, hour, 1).await;
            drop((own, waiting));
            called.map(drop)
        };
        let ended = tokio::join!(call(&a, &b, held.0), call(&b, &a, held.1));
        assert!(ended.0.is_err() || ended.1.is_err(), "{ended:?}");
        assert!(a.try_acquire().is_some() && b.try_acquire().is_some());
    }

    #[tokio::test]
    async fn a_place_of_the_server_goes_to_the_tenant_that_has_fewest_and_none_is_lost() {
        let server = ServerPermits::new(2, 9);
        let later = Instant::now() + Duration::from_secs(60);
        let held = [server.try_acquire(&name("a")).unwrap(), server.try_acquire(&name("a")).unwrap()];
        assert!(server.try_acquire(&name("b")).is_none());
        let wait = |tenant: &str| {
            let (server, tenant) = (Arc::clone(&server), name(tenant));
            tokio::spawn(async move { server.acquire(&tenant, later).await })
        };
        let more = wait("a");
        while server.lock().waiting() < 1 {
            tokio::task::yield_now().await;
        }
        let other = wait("b");
        while server.lock().waiting() < 2 {
            tokio::task::yield_now().await;
        }
        let [first, second] = held;
        drop(first);
        let other = other.await.unwrap().unwrap();
        assert!(!more.is_finished());
        more.abort();
        let _ = more.await;
        drop((second, other));
        assert!(server.try_acquire(&name("c")).is_some() && server.lock().waiting() == 0);
        assert!(server.acquire(&name("c"), Instant::now()).await.is_ok());
    }
}
