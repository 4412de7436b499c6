//! Decides which worker serves which tenant, and in which slot. Pure: it holds no lock, awaits nothing, and takes the
//! time as an argument.
//!
//! ```text
//!   (none) ──claim, a spare is ready──▶ Up(busy 1)        warm
//!   (none) ──claim, no spare is ready──▶ Starting ──started──▶ Up     cold
//!   Up ──claim──▶ busy+1    Up ──release──▶ busy−1    Up(busy 0) ──idle timeout | evicted──▶ Leaving
//!   Up | Starting | Leaving ──died | failed──▶ (none)
//! ```
//!
//! A tenant has at most one worker in each slot (a GPU). A new worker is placed by the function's order of preference,
//! in a slot with a ready spare or else in the one with the fewest workers. A claim starts a worker only for a tenant
//! that has none where its function may run; further ones, over which the function is spread, are in [`spread`].
//!
//! Invariants: a worker serves one tenant for life; a claimed spare is never given back; a busy
//! worker is never retired; workers, spares and workers that are still ending never exceed their slot's `workers_max`.

mod spread;

pub(crate) use spread::{ExtraStart, Kept};

use crate::gpus::SlotId;
use gannet_base::names::{FunctionName, TenantName};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Grace period before an idle worker is evicted. It returns its GPU lease one millisecond after its last use; killing
/// it earlier would force a GPU probe.
const EVICT_IDLE_MIN: Duration = Duration::from_millis(20);

/// The outcome of a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum ClaimDecision<W> {
    /// The tenant's own worker serves the request.
    Use(W),
    /// A spare serves the request, and belongs to the tenant from now on.
    Spare(W),
    /// The caller starts a worker in this slot, and then calls [`WorkerTable::started`] or
    /// [`WorkerTable::start_failed`].
    Start(SlotId),
    /// A worker is being started for the tenant. Claim again when it has started.
    Wait,
    /// The caller kills this idle worker, and claims again when its process has ended.
    Evict(W),
    /// All workers are busy or still ending. Claim again when something changes.
    Full,
}

/// How many workers a slot may have.
#[derive(Debug, Clone, Copy)]
pub struct SlotLimits {
    /// Spare workers kept ready.
    pub spares: usize,
    /// Most workers and spares together.
    pub workers_max: usize,
}

/// Number of workers and spares in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Tenants' workers.
    pub workers: usize,
    /// Spares.
    pub spares: usize,
}

#[derive(Debug)]
enum TenantWorker<W> {
    Starting,
    Up(UpWorker<W>),
}

#[derive(Debug)]
struct UpWorker<W> {
    worker: W,
    busy: usize,
    idle_since: Instant,
    idle_timeout: Duration,
    /// The functions with `scale.min` for which it is kept although nobody calls.
    kept_for: Vec<FunctionName>,
    /// Its number in the order in which the table's workers came.
    order: u64,
    /// Whether its tenant had another one when it came, so that this one makes way first.
    is_extra: bool,
    /// When it was last asked for by a tenant that waits for its place.
    asked_back: Option<Instant>,
}

#[derive(Debug)]
struct SlotState<W> {
    limits: SlotLimits,
    spares: VecDeque<W>,
    spares_starting: usize,
    /// Workers that were killed and whose processes have not ended yet, so their memory is not free.
    leaving: Vec<W>,
}

/// The tenants' workers and the spares, by slot.
#[derive(Debug)]
pub struct WorkerTable<W> {
    tenant_workers: HashMap<(TenantName, SlotId), TenantWorker<W>>,
    slots: Vec<SlotState<W>>,
    /// Number of the next worker.
    next_order: u64,
}

impl<W: Clone + PartialEq> WorkerTable<W> {
    /// Returns an empty table.
    pub fn new(slots: impl IntoIterator<Item = SlotLimits>) -> Self {
        let state = |limits| SlotState { limits, spares: VecDeque::new(), spares_starting: 0, leaving: Vec::new() };
        Self { tenant_workers: HashMap::new(), slots: slots.into_iter().map(state).collect(), next_order: 0 }
    }

    fn assigned(&self, slot: SlotId) -> usize {
        self.tenant_workers.keys().filter(|(_, at)| *at == slot).count()
    }

    fn total(&self, slot: SlotId) -> usize {
        let unclaimed =
            self.slots.get(slot).map_or(0, |state| state.spares.len() + state.spares_starting + state.leaving.len());
        self.assigned(slot) + unclaimed
    }

    fn has_room(&self, slot: SlotId) -> bool {
        self.slots.get(slot).is_some_and(|state| self.total(slot) < state.limits.workers_max)
    }

    /// Decides which worker serves a request of `tenant`. `candidates` are groups of slots in order of preference.
    /// `Use` and `Spare` count the worker as busy with this request until `release`. `wanted` is the number of workers
    /// that the function is spread over.
    pub fn claim(
        &mut self,
        tenant: &TenantName,
        candidates: &[Vec<SlotId>],
        wanted: usize,
        now: Instant,
    ) -> ClaimDecision<W> {
        let ranked = (0..).zip(candidates).flat_map(|(rank, group)| group.iter().map(move |slot| (rank, *slot)));
        if let Some(worker) = self.claim_own(tenant, ranked, wanted, now) {
            return ClaimDecision::Use(worker);
        }
        let all: Vec<SlotId> = candidates.iter().flatten().copied().collect();
        if all.iter().any(|slot| self.tenant_workers.contains_key(&(tenant.clone(), *slot))) {
            return ClaimDecision::Wait;
        }
        for group in candidates {
            let has_spare = |slot: &&SlotId| self.slots.get(**slot).is_some_and(|state| !state.spares.is_empty());
            let spare = group.iter().filter(has_spare).min_by_key(|slot| self.assigned(**slot)).copied();
            if let Some(slot) = spare
                && let Some(worker) = self.slots.get_mut(slot).and_then(|state| state.spares.pop_front())
            {
                self.assign(tenant, slot, worker.clone(), now).busy = 1;
                return ClaimDecision::Spare(worker);
            }
            let roomy = group.iter().filter(|slot| self.has_room(**slot));
            let free = roomy.min_by_key(|slot| self.assigned(**slot)).copied();
            if let Some(slot) = free {
                self.tenant_workers.insert((tenant.clone(), slot), TenantWorker::Starting);
                return ClaimDecision::Start(slot);
            }
        }
        // Evict nothing where a worker is already ending or a spare is starting: there will be a worker or room soon.
        let still = |slot: &&SlotId| {
            self.slots.get(**slot).is_some_and(|state| state.leaving.is_empty() && state.spares_starting == 0)
        };
        let slots: Vec<SlotId> = all.iter().filter(still).copied().collect();
        match self.evict(&slots, now) {
            Some(worker) => ClaimDecision::Evict(worker),
            None => {
                self.ask_back(&slots, now);
                ClaimDecision::Full
            }
        }
    }

    fn assign(&mut self, tenant: &TenantName, slot: SlotId, worker: W, now: Instant) -> &mut UpWorker<W> {
        let order = self.next_order;
        self.next_order += 1;
        let up = UpWorker {
            worker,
            busy: 0,
            idle_since: now,
            idle_timeout: Duration::from_secs(60),
            kept_for: Vec::new(),
            order,
            is_extra: false,
            asked_back: None,
        };
        let entry = self.tenant_workers.entry((tenant.clone(), slot)).insert_entry(TenantWorker::Up(up)).into_mut();
        match entry {
            TenantWorker::Up(up) => up,
            TenantWorker::Starting => unreachable!("it was just inserted"),
        }
    }

    fn up(&self) -> impl Iterator<Item = (&(TenantName, SlotId), &UpWorker<W>)> {
        self.tenant_workers.iter().filter_map(|(key, entry)| match entry {
            TenantWorker::Up(up) => Some((key, up)),
            TenantWorker::Starting => None,
        })
    }

    fn up_mut(&mut self) -> impl Iterator<Item = (&(TenantName, SlotId), &mut UpWorker<W>)> {
        self.tenant_workers.iter_mut().filter_map(|(key, entry)| match entry {
            TenantWorker::Up(up) => Some((key, up)),
            TenantWorker::Starting => None,
        })
    }

    /// Removes the worker that has been idle longest, further ones of a tenant before the only ones. Skips workers idle
    /// for less than [`EVICT_IDLE_MIN`], which may still hold the GPU.
    fn evict(&mut self, slots: &[SlotId], now: Instant) -> Option<W> {
        let is_idle = |up: &UpWorker<W>| {
            up.busy == 0 && up.kept_for.is_empty() && now.saturating_duration_since(up.idle_since) >= EVICT_IDLE_MIN
        };
        let idle = self.up().filter(|(key, up)| slots.contains(&key.1) && is_idle(up));
        let oldest = idle.min_by_key(|(_, up)| (!up.is_extra, up.idle_since)).map(|(key, _)| key.clone())?;
        self.start_leaving(&oldest)
    }

    fn start_leaving(&mut self, key: &(TenantName, SlotId)) -> Option<W> {
        let Some(TenantWorker::Up(UpWorker { worker, .. })) = self.tenant_workers.remove(key) else { return None };
        if let Some(state) = self.slots.get_mut(key.1) {
            state.leaving.push(worker.clone());
        }
        Some(worker)
    }

    /// Records that a worker has started. It is idle at first: the request that wanted it claims again, unless its
    /// client has left meanwhile.
    pub fn started(&mut self, tenant: &TenantName, slot: SlotId, worker: W, now: Instant) {
        self.assign(tenant, slot, worker, now);
    }

    /// Records that a worker could not be started.
    pub fn start_failed(&mut self, tenant: &TenantName, slot: SlotId) {
        let key = (tenant.clone(), slot);
        if matches!(self.tenant_workers.get(&key), Some(TenantWorker::Starting)) {
            self.tenant_workers.remove(&key);
        }
    }

    /// Records that a request is done with its worker. `idle_timeout` is the function's. Returns whether the worker is
    /// idle now, so that it could be evicted for another.
    pub fn release(&mut self, tenant: &TenantName, worker: &W, idle_timeout: Duration, now: Instant) -> bool {
        for slot in 0..self.slots.len() {
            if let Some(TenantWorker::Up(up)) = self.tenant_workers.get_mut(&(tenant.clone(), slot))
                && up.worker == *worker
            {
                up.busy = up.busy.saturating_sub(1);
                up.idle_since = now;
                up.idle_timeout = idle_timeout;
                return up.busy == 0;
            }
        }
        false
    }

    /// Returns a tenant's workers that have started.
    pub fn workers(&self, tenant: &TenantName) -> Vec<W> {
        let tenant_workers = (0..self.slots.len()).filter_map(|slot| self.tenant_workers.get(&(tenant.clone(), slot)));
        tenant_workers
            .filter_map(|entry| match entry {
                TenantWorker::Up(up) => Some(up.worker.clone()),
                TenantWorker::Starting => None,
            })
            .collect()
    }

    /// Removes a worker whose process has ended.
    pub fn died(&mut self, worker: &W) {
        self.tenant_workers.retain(|_, entry| !matches!(entry, TenantWorker::Up(up) if up.worker == *worker));
        for state in &mut self.slots {
            state.spares.retain(|spare| spare != worker);
            state.leaving.retain(|leaving| leaving != worker);
        }
    }

    /// Takes a worker that is being killed from its tenant. Its memory still counts until its process has ended.
    pub fn unassign(&mut self, worker: &W) {
        let key = self.up().find(|(_, up)| up.worker == *worker).map(|(key, _)| key.clone());
        if let Some(key) = key {
            self.start_leaving(&key);
        }
    }

    /// Lets a tenant's workers be retired again.
    pub fn clear_always_on(&mut self, tenant: &TenantName) {
        self.up_mut().filter(|(key, _)| key.0 == *tenant).for_each(|(_, up)| up.kept_for.clear());
    }

    /// Removes the workers that have been idle for longer than their idle timeout. The caller kills them.
    pub fn retire(&mut self, now: Instant) -> Vec<W> {
        let is_due = |up: &UpWorker<W>| {
            let is_over = now.saturating_duration_since(up.idle_since) >= up.idle_timeout;
            up.busy == 0 && up.kept_for.is_empty() && is_over
        };
        let due: Vec<_> = self.up().filter(|(_, up)| is_due(up)).map(|(key, _)| key.clone()).collect();
        due.iter().filter_map(|key| self.start_leaving(key)).collect()
    }

    /// Returns the slots in which to start spares now, once for each spare, and counts those spares as starting.
    pub fn spares_missing(&mut self) -> Vec<SlotId> {
        let mut missing = Vec::new();
        for slot in 0..self.slots.len() {
            while self.has_room(slot)
                && let Some(state) = self.slots.get_mut(slot)
                && state.spares.len() + state.spares_starting < state.limits.spares
            {
                state.spares_starting += 1;
                missing.push(slot);
            }
        }
        missing
    }

    /// Records that a spare has started, or could not be started (`None`).
    pub fn spare_started(&mut self, slot: SlotId, worker: Option<W>) {
        if let Some(state) = self.slots.get_mut(slot) {
            state.spares_starting = state.spares_starting.saturating_sub(1);
            state.spares.extend(worker);
        }
    }

    /// Returns the number of workers and spares in each slot.
    pub fn counts(&self) -> Vec<WorkerCounts> {
        let count = |(slot, state): (SlotId, &SlotState<W>)| WorkerCounts {
            workers: self.assigned(slot),
            spares: state.spares.len(),
        };
        self.slots.iter().enumerate().map(count).collect()
    }

    /// Removes and returns all workers and spares. No new spares are started after this.
    pub fn drain(&mut self) -> Vec<W> {
        let assigned = self.tenant_workers.drain().filter_map(|(_, entry)| match entry {
            TenantWorker::Up(up) => Some(up.worker),
            TenantWorker::Starting => None,
        });
        let mut all: Vec<W> = assigned.collect();
        for state in &mut self.slots {
            state.limits.spares = 0;
            all.extend(state.spares.drain(..));
            all.append(&mut state.leaving);
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(index: usize) -> TenantName {
        TenantName::new(&format!("t{}", index + 10)).unwrap()
    }

    const LIMITS: SlotLimits = SlotLimits { spares: 1, workers_max: 3 };

    #[derive(Debug, Clone)]
    enum Step {
        Claim(usize, usize),
        Extra(usize, usize),
        Release(usize),
        Started(usize),
        Failed(usize),
        Died(u32),
        Spare(bool),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..4, 0usize..4).prop_map(|(tenant, wanted)| Step::Claim(tenant, wanted)),
            (0usize..4, 0usize..4).prop_map(|(tenant, wanted)| Step::Extra(tenant, wanted)),
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
            let mut table = WorkerTable::new([LIMITS; 2]);
            let anywhere = [vec![0, 1]];
            let mut now = Instant::now();
            let mut next = 0u32;
            let mut owner: HashMap<u32, usize> = HashMap::new();
            let mut busy: HashMap<u32, usize> = HashMap::new();
            let mut held: Vec<(usize, u32)> = Vec::new();
            let mut starting: [Vec<(SlotId, Option<u32>, bool)>; 4] = Default::default();
            for step in steps {
                match step {
                    Step::Claim(tenant, wanted) => match table.claim(&name(tenant), &anywhere, wanted, now) {
                        ClaimDecision::Use(worker) | ClaimDecision::Spare(worker) => {
                            prop_assert_eq!(*owner.entry(worker).or_insert(tenant), tenant);
                            *busy.entry(worker).or_default() += 1;
                            held.push((tenant, worker));
                        }
                        ClaimDecision::Start(slot) => starting[tenant].push((slot, None, false)),
                        ClaimDecision::Evict(worker) => prop_assert_eq!(busy.get(&worker).copied().unwrap_or(0), 0),
                        ClaimDecision::Wait => prop_assert!(!starting[tenant].is_empty()),
                        ClaimDecision::Full => {}
                    },
                    Step::Extra(tenant, wanted) => {
                        let before = table.workers(&name(tenant)).len() + starting[tenant].len();
                        match table.claim_extra(&name(tenant), &anywhere, wanted) {
                            Some(ExtraStart { slot, spare }) => {
                                prop_assert!(before < wanted);
                                starting[tenant].push((slot, spare, true));
                            }
                            None => prop_assert!(before >= wanted || before == 2 || !table.has_room(0) || !table.has_room(1)),
                        }
                    }
                    Step::Started(tenant) => if let Some((slot, spare, is_extra)) = starting[tenant].pop() {
                        next += 1;
                        let worker = spare.unwrap_or(next);
                        prop_assert!(owner.insert(worker, tenant).is_none());
                        if is_extra {
                            table.started_extra(&name(tenant), slot, worker, now);
                        } else {
                            table.started(&name(tenant), slot, worker, now);
                        }
                    },
                    Step::Failed(tenant) => if let Some((slot, ..)) = starting[tenant].pop() {
                        table.start_failed(&name(tenant), slot);
                    },
                    Step::Release(tenant) => if let Some(at) = held.iter().position(|(t, _)| *t == tenant) {
                        let (_, worker) = held.remove(at);
                        *busy.get_mut(&worker).unwrap() -= 1;
                        table.release(&name(tenant), &worker, Duration::from_secs(10), now);
                    },
                    // One that is being made ready for a tenant is not in the table.
                    Step::Died(worker) if starting.iter().flatten().any(|(_, spare, _)| *spare == Some(worker)) => {}
                    Step::Died(worker) => {
                        table.died(&worker);
                        busy.remove(&worker);
                        held.retain(|(_, w)| *w != worker);
                    }
                    Step::Spare(good) => for slot in table.spares_missing() {
                        next += 1;
                        table.spare_started(slot, good.then_some(next));
                    },
                    Step::Pass(seconds) => {
                        now += Duration::from_secs(seconds);
                        for worker in table.retire(now) {
                            prop_assert_eq!(busy.get(&worker).copied().unwrap_or(0), 0);
                        }
                    }
                }
                prop_assert!(table.total(0) <= 3 && table.total(1) <= 3);
            }
        }
    }

    #[test]
    fn an_idle_worker_goes_at_its_timeout_and_a_pinned_one_stays() {
        let mut table = WorkerTable::new([SlotLimits { spares: 0, workers_max: 8 }]);
        let now = Instant::now();
        for (index, always_on) in [(0, false), (1, true)] {
            assert_eq!(table.claim(&name(index), &[vec![0]], 1, now), ClaimDecision::Start(0));
            table.started(&name(index), 0, index, now);
            table.claim(&name(index), &[vec![0]], 1, now);
            table.release(&name(index), &index, Duration::from_secs(5), now);
            let kept = FunctionName::new("kept").unwrap();
            let kept_for: Kept = always_on.then(|| ((name(index), 0), vec![kept])).into_iter().collect();
            table.keep(&kept_for);
        }
        assert!(table.retire(now + Duration::from_secs(4)).is_empty());
        assert_eq!(table.retire(now + Duration::from_secs(5)), [0]);
        table.clear_always_on(&name(1));
        assert_eq!(table.retire(now + Duration::from_secs(5)), [1]);
    }

    #[test]
    fn tenants_are_placed_by_preference_then_where_the_fewest_are_and_stay_there() {
        let mut table = WorkerTable::new([SlotLimits { spares: 0, workers_max: 2 }; 3]);
        let now = Instant::now();
        let candidates = [vec![1, 2], vec![0]];
        let mut placed = Vec::new();
        for index in 0..6 {
            let ClaimDecision::Start(slot) = table.claim(&name(index), &candidates, 1, now) else {
                panic!("there is room")
            };
            table.started(&name(index), slot, index, now + Duration::from_secs(index as u64));
            placed.push(slot);
        }
        assert_eq!(placed, [1, 2, 1, 2, 0, 0]);
        assert_eq!(table.claim(&name(3), &candidates, 1, now), ClaimDecision::Use(3));
        assert_eq!(
            table.claim(&name(3), &[vec![0]], 1, now + Duration::from_secs(9)),
            ClaimDecision::Evict(4),
            "it needs a worker of its own there"
        );
    }

    #[test]
    fn the_longest_idle_makes_room_and_is_counted_until_it_is_gone() {
        let mut table = WorkerTable::new([SlotLimits { spares: 0, workers_max: 2 }]);
        let start = Instant::now();
        for index in 0..2 {
            let now = start + Duration::from_secs(index as u64);
            assert_eq!(table.claim(&name(index), &[vec![0]], 1, now), ClaimDecision::Start(0));
            table.started(&name(index), 0, index, now);
        }
        let later = start + Duration::from_secs(9);
        assert_eq!(table.claim(&name(2), &[vec![0]], 1, start), ClaimDecision::Full, "it may hold the gpu yet");
        assert_eq!(table.claim(&name(2), &[vec![0]], 1, later), ClaimDecision::Evict(0));
        assert_eq!(table.claim(&name(2), &[vec![0]], 1, start), ClaimDecision::Full, "it has not ended yet");
        assert_eq!(
            table.claim(&name(1), &[vec![0]], 1, start),
            ClaimDecision::Use(1),
            "whoever is there is not disturbed"
        );
        table.died(&0);
        assert_eq!(table.claim(&name(2), &[vec![0]], 1, start), ClaimDecision::Start(0));
        table.started(&name(2), 0, 2, start);
        assert_eq!(table.claim(&name(2), &[vec![0]], 1, start), ClaimDecision::Use(2));
        assert_eq!(table.claim(&name(3), &[vec![0]], 1, start), ClaimDecision::Full, "both are busy");
        assert!(table.release(&name(1), &1, Duration::from_secs(9), start));
        assert_eq!(table.claim(&name(3), &[vec![0]], 1, later), ClaimDecision::Evict(1));
    }
}
