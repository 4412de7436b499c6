//! Which worker serves which tenant: the pure part. It holds no lock, awaits nothing and is told the
//! time.
//!
//! ```text
//!   (none) ──claim, a spare is there──▶ Up(busy 1)        warm
//!   (none) ──claim, none is────────────▶ Starting ──started──▶ Up     cold
//!   Up ──claim──▶ busy+1    Up ──release──▶ busy−1    Up(busy 0) ──idle timeout──▶ (none)
//!   Up | Starting ──died | failed──▶ (none)
//! ```
//!
//! Invariants: a worker serves one tenant for life; a claimed spare is never given back; a busy
//! worker is never retired; workers and spares never pass `workers_max`.

use crate::names::TenantName;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// What a claim leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim<W> {
    /// The tenant's own worker.
    Use(W),
    /// A spare, now the tenant's.
    Spare(W),
    /// A process must be started, then [`Table::started`] called.
    Start,
    /// One is being started for the tenant; claim again when it is there.
    Wait,
    /// This idle worker must end first; then claim again.
    Evict(W),
    /// All workers are busy.
    Full,
}

#[derive(Debug)]
enum Seat<W> {
    Starting,
    Up { worker: W, busy: usize, idle_since: Instant, idle_timeout: Duration, pinned: bool },
}

/// See the module.
#[derive(Debug)]
pub struct Table<W> {
    seats: HashMap<TenantName, Seat<W>>,
    spares: VecDeque<W>,
    spares_starting: usize,
    spares_wanted: usize,
    workers_max: usize,
}

impl<W: Clone + PartialEq> Table<W> {
    /// An empty table.
    pub fn new(spares_wanted: usize, workers_max: usize) -> Self {
        Self { seats: HashMap::new(), spares: VecDeque::new(), spares_starting: 0, spares_wanted, workers_max }
    }

    fn total(&self) -> usize {
        self.seats.len() + self.spares.len() + self.spares_starting
    }

    /// Asks for a worker for `tenant`. `Use` and `Spare` count the caller as busy until `release`.
    pub fn claim(&mut self, tenant: &TenantName, now: Instant) -> Claim<W> {
        match self.seats.get_mut(tenant) {
            Some(Seat::Up { worker, busy, .. }) => {
                *busy += 1;
                return Claim::Use(worker.clone());
            }
            Some(Seat::Starting) => return Claim::Wait,
            None => {}
        }
        if let Some(worker) = self.spares.pop_front() {
            self.seat(tenant, worker.clone(), 1, now);
            return Claim::Spare(worker);
        }
        if self.total() >= self.workers_max {
            return match self.evict() {
                Some(worker) => Claim::Evict(worker),
                None => Claim::Full,
            };
        }
        self.seats.insert(tenant.clone(), Seat::Starting);
        Claim::Start
    }

    fn seat(&mut self, tenant: &TenantName, worker: W, busy: usize, now: Instant) {
        let seat = Seat::Up { worker, busy, idle_since: now, idle_timeout: Duration::from_secs(60), pinned: false };
        self.seats.insert(tenant.clone(), seat);
    }

    fn evict(&mut self) -> Option<W> {
        let oldest = self
            .seats
            .iter()
            .filter_map(|(tenant, seat)| match seat {
                Seat::Up { busy: 0, idle_since, pinned: false, .. } => Some((*idle_since, tenant)),
                _ => None,
            })
            .min_by_key(|(since, _)| *since)
            .map(|(_, tenant)| tenant.clone())?;
        match self.seats.remove(&oldest) {
            Some(Seat::Up { worker, .. }) => Some(worker),
            _ => None,
        }
    }

    /// A started process is there. Whoever wanted it claims again, and may have left meanwhile.
    pub fn started(&mut self, tenant: &TenantName, worker: W, now: Instant) {
        self.seat(tenant, worker, 0, now);
    }

    /// A process could not be started.
    pub fn start_failed(&mut self, tenant: &TenantName) {
        if matches!(self.seats.get(tenant), Some(Seat::Starting)) {
            self.seats.remove(tenant);
        }
    }

    /// A request is done with its worker. `idle_timeout` and `pinned` are its function's.
    pub fn release(&mut self, tenant: &TenantName, worker: &W, idle: Duration, keep: bool, now: Instant) {
        if let Some(Seat::Up { worker: seated, busy, idle_since, idle_timeout, pinned }) = self.seats.get_mut(tenant)
            && seated == worker
        {
            *busy = busy.saturating_sub(1);
            *idle_since = now;
            *idle_timeout = idle;
            *pinned |= keep;
        }
    }

    /// A tenant's worker.
    pub fn worker(&self, tenant: &TenantName) -> Option<W> {
        match self.seats.get(tenant) {
            Some(Seat::Up { worker, .. }) => Some(worker.clone()),
            Some(Seat::Starting) | None => None,
        }
    }

    /// A worker's process has ended.
    pub fn died(&mut self, worker: &W) {
        self.seats.retain(|_, seat| !matches!(seat, Seat::Up { worker: seated, .. } if seated == worker));
        self.spares.retain(|spare| spare != worker);
    }

    /// No function of the tenant keeps its worker up any more.
    pub fn unpin(&mut self, tenant: &TenantName) {
        if let Some(Seat::Up { pinned, .. }) = self.seats.get_mut(tenant) {
            *pinned = false;
        }
    }

    /// Takes out the workers that have been idle for too long; the caller ends them.
    pub fn retire(&mut self, now: Instant) -> Vec<W> {
        let mut retired = Vec::new();
        self.seats.retain(|_, seat| match seat {
            Seat::Up { worker, busy: 0, idle_since, idle_timeout, pinned: false }
                if now.saturating_duration_since(*idle_since) >= *idle_timeout =>
            {
                retired.push(worker.clone());
                false
            }
            _ => true,
        });
        retired
    }

    /// How many spares to start now. They are counted as starting from here on.
    pub fn spares_missing(&mut self) -> usize {
        let have = self.spares.len() + self.spares_starting;
        let missing = self.spares_wanted.saturating_sub(have).min(self.workers_max.saturating_sub(self.total()));
        self.spares_starting += missing;
        missing
    }

    /// A spare is there, or could not be started.
    pub fn spare_started(&mut self, worker: Option<W>) {
        self.spares_starting = self.spares_starting.saturating_sub(1);
        self.spares.extend(worker);
    }

    /// Tenants with a worker, and spares.
    pub fn counts(&self) -> (usize, usize) {
        (self.seats.len(), self.spares.len())
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<W> {
        self.spares_wanted = 0;
        let seated = self.seats.drain().filter_map(|(_, seat)| match seat {
            Seat::Up { worker, .. } => Some(worker),
            Seat::Starting => None,
        });
        seated.chain(self.spares.drain(..)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(index: usize) -> TenantName {
        TenantName::new(&format!("t{}", index + 10)).unwrap()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Claim(usize),
        Release(usize),
        Started(usize),
        Failed(usize),
        Died(u32),
        Spare(bool),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..4).prop_map(Step::Claim),
            (0usize..4).prop_map(Step::Release),
            (0usize..4).prop_map(Step::Started),
            (0usize..4).prop_map(Step::Failed),
            (0u32..20).prop_map(Step::Died),
            any::<bool>().prop_map(Step::Spare),
            (0u64..100).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn a_worker_serves_one_tenant_and_is_never_retired_while_busy(steps in proptest::collection::vec(step(), 0..200)) {
            let mut table = Table::new(1, 3);
            let mut now = Instant::now();
            let mut next = 0u32;
            let mut owner: HashMap<u32, usize> = HashMap::new();
            let mut busy: HashMap<u32, usize> = HashMap::new();
            let mut held: Vec<(usize, u32)> = Vec::new();
            let mut starting = [false; 4];
            for step in steps {
                match step {
                    Step::Claim(tenant) => match table.claim(&name(tenant), now) {
                        Claim::Use(worker) | Claim::Spare(worker) => {
                            prop_assert_eq!(*owner.entry(worker).or_insert(tenant), tenant);
                            *busy.entry(worker).or_default() += 1;
                            held.push((tenant, worker));
                        }
                        Claim::Start => starting[tenant] = true,
                        Claim::Evict(worker) => prop_assert_eq!(busy.get(&worker).copied().unwrap_or(0), 0),
                        Claim::Wait => prop_assert!(starting[tenant]),
                        Claim::Full => {}
                    },
                    Step::Started(tenant) if starting[tenant] => {
                        starting[tenant] = false;
                        next += 1;
                        owner.insert(next, tenant);
                        table.started(&name(tenant), next, now);
                    }
                    Step::Failed(tenant) if starting[tenant] => {
                        starting[tenant] = false;
                        table.start_failed(&name(tenant));
                    }
                    Step::Release(tenant) => if let Some(at) = held.iter().position(|(t, _)| *t == tenant) {
                        let (_, worker) = held.remove(at);
                        *busy.get_mut(&worker).unwrap() -= 1;
                        table.release(&name(tenant), &worker, Duration::from_secs(10), false, now);
                    },
                    Step::Died(worker) => {
                        table.died(&worker);
                        busy.remove(&worker);
                        held.retain(|(_, w)| *w != worker);
                    }
                    Step::Spare(good) => for _ in 0..table.spares_missing() {
                        next += 1;
                        table.spare_started(good.then_some(next));
                    },
                    Step::Pass(seconds) => {
                        now += Duration::from_secs(seconds);
                        for worker in table.retire(now) {
                            prop_assert_eq!(busy.get(&worker).copied().unwrap_or(0), 0);
                        }
                    }
                    Step::Started(_) | Step::Failed(_) => {}
                }
                prop_assert!(table.total() <= 3);
            }
        }
    }

    #[test]
    fn an_idle_worker_goes_at_its_timeout_and_a_pinned_one_stays() {
        let mut table = Table::new(0, 8);
        let now = Instant::now();
        for (index, keep) in [(0, false), (1, true)] {
            assert_eq!(table.claim(&name(index), now), Claim::Start);
            table.started(&name(index), index, now);
            table.release(&name(index), &index, Duration::from_secs(5), keep, now);
        }
        assert!(table.retire(now + Duration::from_secs(4)).is_empty());
        assert_eq!(table.retire(now + Duration::from_secs(5)), [0]);
        table.unpin(&name(1));
        assert_eq!(table.retire(now + Duration::from_secs(5)), [1]);
    }
}
