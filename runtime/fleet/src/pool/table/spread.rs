//! A function that is spread over several workers of its tenant, each in a slot of its own: which one a request gets,
//! where a further one starts, and which ones are kept.
//!
//! The workers of a tenant where a function may run are in one order: by the function's preference, and then as they
//! came. A function that wants N workers uses the first N, so the newest ones fall idle first when it wants fewer. A
//! further worker takes only room that is free. It makes way for a tenant that has none: if it is idle it is evicted
//! first, and else it is asked back: it gets no more requests for as long as the other tenant asks, so that it will be.

use super::{SlotState, TenantWorker, UpWorker, WorkerTable};
use crate::gpus::SlotId;
use gannet_base::names::{FunctionName, TenantName};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a worker that was asked back gets no requests. Whoever waits for its place asks far more often, so a worker
/// that nobody waits for any more soon gets requests again.
const ASKED_BACK_FOR: Duration = Duration::from_secs(1);

/// The workers that are kept although nobody calls, and the functions for which each is.
pub(crate) type Kept = HashMap<(TenantName, SlotId), Vec<FunctionName>>;

/// A further worker that the caller starts. It then calls [`WorkerTable::started_extra`] or
/// [`WorkerTable::start_failed`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExtraStart<W> {
    /// Where.
    pub(crate) slot: SlotId,
    /// The spare that becomes the worker. None: a process is started.
    pub(crate) spare: Option<W>,
}

impl<W: Clone + PartialEq> WorkerTable<W> {
    /// Counts a tenant's worker as busy with one more request: of the first `wanted` the one with the fewest. `ranked`
    /// are slots with their places in the function's order of preference.
    pub fn claim_own(
        &mut self,
        tenant: &TenantName,
        ranked: impl Iterator<Item = (usize, SlotId)>,
        wanted: usize,
        now: Instant,
    ) -> Option<W> {
        let own = self.first_places(tenant, ranked, wanted, now);
        let first = own.first()?.slot;
        let slot = own.iter().min_by_key(|place| place.busy)?.slot;
        if let Some(TenantWorker::Up(up)) = self.tenant_workers.get_mut(&(tenant.clone(), first)) {
            (up.is_extra, up.asked_back) = (false, None);
        }
        self.add_request(tenant, slot)
    }

    /// Does the same with those of the first `most` workers that suit.
    pub fn claim_own_if(
        &mut self,
        tenant: &TenantName,
        ranked: impl Iterator<Item = (usize, SlotId)>,
        most: usize,
        now: Instant,
        suits: impl Fn(&W) -> bool,
    ) -> Option<W> {
        let own = self.first_places(tenant, ranked, most, now);
        let suiting =
            own.iter().filter(|place| self.worker_at(tenant, place.slot).is_some_and(|worker| suits(&worker)));
        let slot = suiting.min_by_key(|place| place.busy)?.slot;
        self.add_request(tenant, slot)
    }

    /// Returns the first workers of a tenant that get requests: at most `most`, and at least one if it has any.
    fn first_places(
        &self,
        tenant: &TenantName,
        ranked: impl Iterator<Item = (usize, SlotId)>,
        most: usize,
        now: Instant,
    ) -> Vec<Place> {
        let mut own = self.in_order(tenant, ranked, now);
        // Those that leave are the last in the order.
        let staying = own.iter().filter(|place| !place.is_leaving).count();
        own.truncate(staying.max(1));
        own.truncate(most.max(1));
        own
    }

    fn add_request(&mut self, tenant: &TenantName, slot: SlotId) -> Option<W> {
        match self.tenant_workers.get_mut(&(tenant.clone(), slot)) {
            Some(TenantWorker::Up(up)) => {
                up.busy += 1;
                Some(up.worker.clone())
            }
            _ => None,
        }
    }

    fn in_order(&self, tenant: &TenantName, ranked: impl Iterator<Item = (usize, SlotId)>, now: Instant) -> Vec<Place> {
        let mut own: Vec<Place> = Vec::new();
        for (rank, slot) in ranked {
            if own.iter().all(|place| place.slot != slot)
                && let Some(TenantWorker::Up(up)) = self.tenant_workers.get(&(tenant.clone(), slot))
            {
                own.push(Place { is_leaving: up.is_leaving(now), rank, order: up.order, slot, busy: up.busy });
            }
        }
        own.sort_unstable();
        own
    }

    /// Returns a tenant's workers where a function may run, in the order in which it uses them.
    pub(crate) fn places(&self, tenant: &TenantName, candidates: &[Vec<SlotId>], now: Instant) -> Vec<SlotId> {
        let ranked = (0..).zip(candidates).flat_map(|(rank, group)| group.iter().map(move |slot| (rank, *slot)));
        self.in_order(tenant, ranked, now).into_iter().map(|place| place.slot).collect()
    }

    /// Returns a tenant's worker in a slot, if it has started.
    pub(crate) fn worker_at(&self, tenant: &TenantName, slot: SlotId) -> Option<W> {
        match self.tenant_workers.get(&(tenant.clone(), slot)) {
            Some(TenantWorker::Up(up)) => Some(up.worker.clone()),
            _ => None,
        }
    }

    /// Decides where a further worker of a tenant starts, if it has fewer than `wanted` where its function may run and
    /// there is room. It counts as starting from then on.
    pub(crate) fn claim_extra(
        &mut self,
        tenant: &TenantName,
        candidates: &[Vec<SlotId>],
        wanted: usize,
    ) -> Option<ExtraStart<W>> {
        let mut all: Vec<SlotId> = candidates.iter().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        let has = |slot: &SlotId| self.tenant_workers.contains_key(&(tenant.clone(), *slot));
        if all.iter().filter(|slot| has(slot)).count() >= wanted {
            return None;
        }
        let slot = candidates.iter().find_map(|group| {
            let free = group.iter().copied().filter(|slot| !has(slot) && self.has_room(*slot));
            free.min_by_key(|slot| (self.assigned(*slot), *slot))
        })?;
        let spare = self.slots.get_mut(slot).and_then(|state: &mut SlotState<W>| state.spares.pop_front());
        self.tenant_workers.insert((tenant.clone(), slot), TenantWorker::Starting);
        Some(ExtraStart { slot, spare })
    }

    /// Records that a further worker has started and is ready for its function.
    pub(crate) fn started_extra(&mut self, tenant: &TenantName, slot: SlotId, worker: W, now: Instant) {
        self.assign(tenant, slot, worker, now).is_extra = true;
    }

    /// Asks for a further worker in one of these slots: it gets no more requests, so that it can be evicted once it is
    /// idle. One at a time, the same one each time that somebody asks.
    pub(super) fn ask_back(&mut self, slots: &[SlotId], now: Instant) {
        let is_further = |up: &UpWorker<W>| up.is_extra && up.kept_for.is_empty();
        let further = self.up().filter(|(key, up)| slots.contains(&key.1) && is_further(up));
        let chosen = further.min_by_key(|(_, up)| (!up.is_leaving(now), up.busy));
        let Some(key) = chosen.map(|(key, _)| key.clone()) else { return };
        if let Some(TenantWorker::Up(up)) = self.tenant_workers.get_mut(&key) {
            up.asked_back = Some(now);
        }
    }

    /// Keeps these workers although nobody calls, and no others.
    pub(crate) fn keep(&mut self, kept: &Kept) {
        for (key, up) in self.up_mut() {
            let kept_for = kept.get(key).map(Vec::as_slice).unwrap_or_default();
            if up.kept_for != kept_for {
                up.kept_for = kept_for.to_vec();
            }
            if !up.kept_for.is_empty() {
                up.asked_back = None;
            }
        }
    }

    /// Returns the workers that are kept although nobody calls, with their tenants and the functions for which they are.
    pub(crate) fn always_on(&self) -> Vec<(TenantName, W, Vec<FunctionName>)> {
        let kept = self.up().filter(|(_, up)| !up.kept_for.is_empty());
        kept.map(|(key, up)| (key.0.clone(), up.worker.clone(), up.kept_for.clone())).collect()
    }
}

impl<W> UpWorker<W> {
    /// Whether it gets no more requests, because another tenant waits for its place.
    fn is_leaving(&self, now: Instant) -> bool {
        self.asked_back.is_some_and(|at| now.saturating_duration_since(at) < ASKED_BACK_FOR)
    }
}

/// A worker of a tenant, in the order in which a function uses them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    is_leaving: bool,
    rank: usize,
    order: u64,
    slot: SlotId,
    busy: usize,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ClaimDecision, SlotLimits};
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> TenantName {
        TenantName::new(text).unwrap()
    }

    /// A table in which `acme` has a worker in each of `slots` slots: worker 0 in slot 0 and so on.
    fn spread(slots: usize, workers_max: usize, now: Instant) -> (WorkerTable<usize>, Vec<Vec<SlotId>>) {
        let mut table = WorkerTable::new(vec![SlotLimits { spares: 0, workers_max }; slots]);
        let anywhere = vec![(0..slots).collect::<Vec<_>>()];
        assert_eq!(table.claim(&name("acme"), &anywhere, 1, now), ClaimDecision::Start(0));
        table.started(&name("acme"), 0, 0, now);
        for slot in 1..slots {
            let start = table.claim_extra(&name("acme"), &anywhere, slots);
            assert_eq!(start, Some(ExtraStart { slot, spare: None }));
            table.started_extra(&name("acme"), slot, slot, now);
        }
        assert_eq!(table.claim_extra(&name("acme"), &anywhere, slots), None);
        (table, anywhere)
    }

    #[test]
    fn requests_go_to_the_worker_with_the_fewest_among_the_first_that_are_wanted() {
        let now = Instant::now();
        let (mut table, anywhere) = spread(3, 4, now);
        let mut served = Vec::new();
        let mut claim =
            |table: &mut WorkerTable<usize>, wanted| match table.claim(&name("acme"), &anywhere, wanted, now) {
                ClaimDecision::Use(worker) => served.push(worker),
                other => panic!("{other:?}"),
            };
        (0..4).for_each(|_| claim(&mut table, 2));
        (0..2).for_each(|_| claim(&mut table, 3));
        claim(&mut table, 1);
        assert_eq!(served, [0, 1, 0, 1, 2, 2, 0]);
        // The newest is idle first, and goes.
        for worker in [2, 2] {
            table.release(&name("acme"), &worker, SECOND, now);
        }
        assert_eq!(table.retire(now + SECOND), [2]);
        assert_eq!(table.places(&name("acme"), &anywhere, now), [0, 1]);
    }

    #[test]
    fn a_further_worker_takes_only_free_room_and_makes_way_for_a_tenant_that_has_none() {
        let now = Instant::now();
        let (mut table, anywhere) = spread(2, 1, now);
        assert_eq!(table.claim_extra(&name("zoo"), &anywhere, 2), None, "there is no room");
        // Both are busy.
        assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(0));
        assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(1));
        assert_eq!(table.claim(&name("zoo"), &anywhere, 1, now), ClaimDecision::Full);
        // From now on the further one gets no more requests.
        assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(0));
        assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(0));
        table.release(&name("acme"), &1, SECOND, now);
        assert_eq!(table.claim(&name("zoo"), &anywhere, 1, now + SECOND), ClaimDecision::Evict(1));
        table.died(&1);
        assert_eq!(table.claim(&name("zoo"), &anywhere, 1, now), ClaimDecision::Start(1));
    }

    #[test]
    fn a_further_worker_is_evicted_before_the_only_one_of_another_tenant() {
        let now = Instant::now();
        let (mut table, anywhere) = spread(2, 2, now);
        for (tenant, worker, later) in [("zoo", 7, 0), ("ape", 8, 1)] {
            let ClaimDecision::Start(slot) = table.claim(&name(tenant), &anywhere, 1, now) else { panic!("room") };
            table.started(&name(tenant), slot, worker, now + SECOND * later);
        }
        // Its workers came first, but it used them last.
        for worker in [0, 1] {
            assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(worker));
        }
        for worker in [0, 1] {
            table.release(&name("acme"), &worker, SECOND, now + SECOND * 5);
        }
        assert_eq!(table.claim(&name("bee"), &anywhere, 1, now + SECOND * 9), ClaimDecision::Evict(1));
    }

    /// Fills both places of `acme` and lets `zoo` ask for the further one.
    fn asked_back(now: Instant) -> (WorkerTable<usize>, Vec<Vec<SlotId>>) {
        let (mut table, anywhere) = spread(2, 1, now);
        for worker in [0, 1] {
            assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(worker));
        }
        assert_eq!(table.claim(&name("zoo"), &anywhere, 1, now), ClaimDecision::Full);
        assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(0), "the other was asked back");
        (table, anywhere)
    }

    #[test]
    fn a_worker_that_nobody_asks_back_any_more_gets_requests_again() {
        let start = Instant::now();
        let (mut table, anywhere) = asked_back(start);
        let mut now = start;
        // Whoever waits asks again and again.
        for _ in 0..99 {
            now += ASKED_BACK_FOR / 2;
            assert_eq!(table.claim(&name("zoo"), &anywhere, 1, now), ClaimDecision::Full);
            assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(0));
        }
        now += ASKED_BACK_FOR;
        assert_eq!(table.claim(&name("acme"), &anywhere, 2, now), ClaimDecision::Use(1), "it has left");
    }

    #[test]
    fn a_worker_that_is_kept_from_now_on_gets_requests_again_and_another_is_asked_back() {
        let now = Instant::now();
        let (mut table, anywhere) = spread(3, 1, now);
        for worker in [0, 1, 2] {
            assert_eq!(table.claim(&name("acme"), &anywhere, 3, now), ClaimDecision::Use(worker));
        }
        for _ in 0..2 {
            assert_eq!(table.claim(&name("acme"), &anywhere, 3, now), ClaimDecision::Use(0));
            table.release(&name("acme"), &0, SECOND, now);
            assert_eq!(table.claim(&name("zoo"), &anywhere, 1, now), ClaimDecision::Full);
        }
        let leaving = |table: &WorkerTable<usize>| -> Vec<SlotId> {
            let leaving = table.up().filter(|(_, up)| up.is_leaving(now));
            leaving.map(|(key, _)| key.1).collect()
        };
        let [asked] = leaving(&table)[..] else { panic!("one") };
        let kept = Kept::from([((name("acme"), asked), vec![FunctionName::new("kept").unwrap()])]);
        table.keep(&kept);
        assert!(leaving(&table).is_empty());
        assert_eq!(table.claim(&name("zoo"), &anywhere, 1, now), ClaimDecision::Full);
        assert_eq!(leaving(&table), [3 - asked], "the other further one");
    }

    #[test]
    fn a_request_may_ask_for_a_worker_that_suits_among_all_that_get_requests() {
        let now = Instant::now();
        let (mut table, anywhere) = spread(3, 1, now);
        let ranked = || anywhere.iter().flatten().map(|slot| (0, *slot));
        let mut claim =
            |most, suits: &dyn Fn(&usize) -> bool| table.claim_own_if(&name("acme"), ranked(), most, now, suits);
        assert_eq!(claim(3, &|worker| *worker != 0), Some(1));
        assert_eq!(claim(3, &|worker| *worker != 0), Some(2));
        assert_eq!(claim(2, &|worker| *worker == 2), None, "not more than the function may have");
        assert_eq!(claim(3, &|_| false), None);
        let (mut table, anywhere) = asked_back(now);
        let ranked = anywhere.iter().flatten().map(|slot| (0, *slot));
        assert_eq!(table.claim_own_if(&name("acme"), ranked, 2, now, |worker| *worker == 1), None, "it was asked back");
    }

    #[test]
    fn a_worker_is_kept_as_long_as_a_function_keeps_it() {
        let now = Instant::now();
        let (mut table, _) = spread(2, 1, now);
        let function = FunctionName::new("kept").unwrap();
        table.keep(&Kept::from([((name("acme"), 1), vec![function.clone()])]));
        assert_eq!(table.always_on(), [(name("acme"), 1, vec![function])]);
        assert_eq!(table.retire(now + SECOND * 99), [0]);
        table.keep(&Kept::new());
        assert_eq!(table.retire(now + SECOND * 99), [1]);
    }
}
