//! A function that is spread over several workers of its tenant, each in a slot of its own: which one a request gets,
//! where a further one starts, and which ones are kept.
//!
//! The workers of a tenant where a function may run are in one order: by the function's preference, and then as they
//! came. A function that wants N workers uses the first N, so the newest ones fall idle first when it wants fewer. A
//! further worker takes only room that is free. It makes way for a tenant that has none: if it is idle it is evicted
//! first, and else it gets no more requests, so that it will be.

use super::{SlotState, TenantWorker, UpWorker, WorkerTable};
use crate::gpus::SlotId;
use gannet_base::names::{FunctionName, TenantName};
use std::collections::HashMap;
use std::time::Instant;

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
    ) -> Option<W> {
        let mut own = self.in_order(tenant, ranked);
        // Those that leave are the last in the order.
        let staying = own.iter().filter(|place| !place.is_leaving).count();
        own.truncate(staying.max(1));
        own.truncate(wanted.max(1));
        let first = own.first()?.slot;
        let slot = own.iter().min_by_key(|place| place.busy)?.slot;
        if let Some(TenantWorker::Up(up)) = self.tenant_workers.get_mut(&(tenant.clone(), first)) {
            (up.is_extra, up.is_leaving) = (false, false);
        }
        match self.tenant_workers.get_mut(&(tenant.clone(), slot)) {
            Some(TenantWorker::Up(up)) => {
                up.busy += 1;
                Some(up.worker.clone())
            }
            _ => None,
        }
    }

    fn in_order(&self, tenant: &TenantName, ranked: impl Iterator<Item = (usize, SlotId)>) -> Vec<Place> {
        let mut own: Vec<Place> = Vec::new();
        for (rank, slot) in ranked {
            if own.iter().all(|place| place.slot != slot)
                && let Some(TenantWorker::Up(up)) = self.tenant_workers.get(&(tenant.clone(), slot))
            {
                own.push(Place { is_leaving: up.is_leaving, rank, order: up.order, slot, busy: up.busy });
            }
        }
        own.sort_unstable();
        own
    }

    /// Returns a tenant's workers where a function may run, in the order in which it uses them.
    pub(crate) fn places(&self, tenant: &TenantName, candidates: &[Vec<SlotId>]) -> Vec<SlotId> {
        let ranked = (0..).zip(candidates).flat_map(|(rank, group)| group.iter().map(move |slot| (rank, *slot)));
        self.in_order(tenant, ranked).into_iter().map(|place| place.slot).collect()
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

    /// Lets a further worker in one of these slots get no more requests, so that it can be evicted once it is idle.
    pub(super) fn ask_back(&mut self, slots: &[SlotId]) {
        let mine = |key: &(TenantName, SlotId)| slots.contains(&key.1);
        if self.up().any(|(key, up)| mine(key) && up.is_leaving) {
            return;
        }
        let extra = |up: &UpWorker<W>| up.is_extra && up.kept_for.is_empty();
        let chosen = self.up().filter(|(key, up)| mine(key) && extra(up)).min_by_key(|(_, up)| up.busy);
        let Some(key) = chosen.map(|(key, _)| key.clone()) else { return };
        if let Some(TenantWorker::Up(up)) = self.tenant_workers.get_mut(&key) {
            up.is_leaving = true;
        }
    }

    /// Keeps these workers although nobody calls, and no others.
    pub(crate) fn keep(&mut self, kept: &Kept) {
        for (key, up) in self.up_mut() {
            let kept_for = kept.get(key).map(Vec::as_slice).unwrap_or_default();
            if up.kept_for != kept_for {
                up.kept_for = kept_for.to_vec();
            }
        }
    }

    /// Returns the workers that are kept although nobody calls, with their tenants and the functions for which they are.
    pub(crate) fn always_on(&self) -> Vec<(TenantName, W, Vec<FunctionName>)> {
        let kept = self.up().filter(|(_, up)| !up.kept_for.is_empty());
        kept.map(|(key, up)| (key.0.clone(), up.worker.clone(), up.kept_for.clone())).collect()
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
        assert_eq!(table.places(&name("acme"), &anywhere), [0, 1]);
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
