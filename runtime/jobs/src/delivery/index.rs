//! The index of deliveries in memory: what is due, what is being sent, what was given up.
//!
//! ```text
//!  expect ─▶ due ─take─▶ sending ─done─▶ due again | dead | gone
//! ```
//!
//! Invariant: at most [`SENDING_MAX`] are sent at once, and at most [`SENDING_OF_TENANT_MAX`] of one tenant; and the more
//! a tenant has, the more places must be free for another (see [`may_take`]). So tenants whose receivers are slow delay
//! nobody else.

use crate::job::{JobId, Millis};
use gannet_base::names::{FunctionName, TenantName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

/// Deliveries that are sent at once.
pub const SENDING_MAX: usize = 32;
/// Of one tenant.
pub const SENDING_OF_TENANT_MAX: usize = 4;
/// Places that must be free for another one, for each that the tenant has.
const FREE_FOR_EACH: usize = 8;
/// Dead letters of one tenant.
pub const DEAD_MAX: usize = 10_000;
/// How long dead letters are kept, in milliseconds.
pub const DEAD_MS: Millis = 7 * 24 * 3_600_000;

/// Whether a tenant that has `own` places may take another while `all` are taken. Alone it gets
/// [`SENDING_OF_TENANT_MAX`]; eight that take all they can have two each and leave half of the places to others.
fn may_take(own: usize, all: usize) -> bool {
    let free = SENDING_MAX.saturating_sub(all);
    own < SENDING_OF_TENANT_MAX && free > own * FREE_FOR_EACH
}

/// Where a delivery stands, once it is not being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is sent at this time.
    Due(Millis),
    /// It was given up at this time.
    Dead(Millis),
    /// There is none.
    Gone,
}

#[derive(Debug, Clone, Copy)]
enum Held {
    Due(Millis),
    Dead(Millis),
    /// It is being sent. What was said about it meanwhile counts more than how the try ends.
    Sending(Option<Stage>),
}

#[derive(Debug)]
struct Known {
    tenant: TenantName,
    function: FunctionName,
    held: Held,
}

#[derive(Debug, Default)]
struct OfTenant {
    due: BTreeSet<(Millis, JobId)>,
    dead: BTreeSet<(Millis, JobId)>,
    sending: usize,
    /// All of them, by function.
    functions: HashMap<FunctionName, BTreeSet<JobId>>,
}

impl OfTenant {
    fn add(&mut self, function: &FunctionName, id: JobId) {
        self.functions.entry(function.clone()).or_default().insert(id);
    }

    fn remove(&mut self, function: &FunctionName, id: JobId) {
        if let Some(own) = self.functions.get_mut(function) {
            own.remove(&id);
            if own.is_empty() {
                self.functions.remove(function);
            }
        }
    }
}

/// The index; see the module.
#[derive(Debug, Default)]
pub struct Deliveries {
    known: BTreeMap<JobId, Known>,
    tenants: HashMap<TenantName, OfTenant>,
    sending: usize,
}

impl Deliveries {
    /// Sets where a delivery stands. One that is being sent gets there when its try has ended.
    pub fn set(&mut self, (tenant, function): (&TenantName, &FunctionName), id: JobId, stage: Stage) {
        if let Some(Known { held: Held::Sending(instead), .. }) = self.known.get_mut(&id) {
            *instead = Some(stage);
            return;
        }
        self.remove(id);
        self.put(tenant.clone(), function.clone(), id, stage);
    }

    fn put(&mut self, tenant: TenantName, function: FunctionName, id: JobId, stage: Stage) {
        let held = match stage {
            Stage::Gone => return,
            Stage::Due(at) => {
                let of = self.tenants.entry(tenant.clone()).or_default();
                of.due.insert((at, id));
                of.add(&function, id);
                Held::Due(at)
            }
            Stage::Dead(at) => {
                let of = self.tenants.entry(tenant.clone()).or_default();
                of.dead.insert((at, id));
                of.add(&function, id);
                Held::Dead(at)
            }
        };
        self.known.insert(id, Known { tenant, function, held });
    }

    /// Forgets a delivery. One that is being sent is gone when its try has ended.
    pub fn forget(&mut self, id: JobId) {
        match self.known.get_mut(&id) {
            Some(Known { held: Held::Sending(instead), .. }) => *instead = Some(Stage::Gone),
            _ => self.remove(id),
        }
    }

    fn remove(&mut self, id: JobId) {
        let Some(known) = self.known.remove(&id) else { return };
        if let Some(of) = self.tenants.get_mut(&known.tenant) {
            of.remove(&known.function, id);
            match known.held {
                Held::Due(at) => drop(of.due.remove(&(at, id))),
                Held::Dead(at) => drop(of.dead.remove(&(at, id))),
                Held::Sending(_) => {}
            }
            if of.due.is_empty() && of.dead.is_empty() && of.sending == 0 {
                self.tenants.remove(&known.tenant);
            }
        }
    }

    /// Whether there is a delivery of this job, pending or dead.
    pub fn holds(&self, id: JobId) -> bool {
        // One that is forgotten while it is being sent is none any more.
        self.known.get(&id).is_some_and(|known| !matches!(known.held, Held::Sending(Some(Stage::Gone))))
    }

    /// Whether a try of this job's delivery is being made.
    pub fn is_sending(&self, id: JobId) -> bool {
        matches!(self.known.get(&id), Some(Known { held: Held::Sending(_), .. }))
    }

    /// Returns the first delivery of each tenant that may send one, with how many it sends.
    fn with_room(&self) -> impl Iterator<Item = (usize, Millis, JobId)> + '_ {
        let free = self.tenants.values().filter(|of| may_take(of.sending, self.sending));
        free.filter_map(|of| of.due.first().map(|(at, id)| (of.sending, *at, *id)))
    }

    /// Takes a delivery that is due: of the tenants that may send one, one that sends least; of these, the one that has
    /// waited longest. It counts until [`Deliveries::done`].
    pub fn take(&mut self, now: Millis) -> Option<JobId> {
        let (_, at, id) = self.with_room().filter(|(_, at, _)| *at <= now).min()?;
        let known = self.known.get_mut(&id)?;
        known.held = Held::Sending(None);
        let of = self.tenants.entry(known.tenant.clone()).or_default();
        of.due.remove(&(at, id));
        of.sending += 1;
        self.sending += 1;
        Some(id)
    }

    /// Notes how a try has ended. Returns where the delivery stands.
    pub fn done(&mut self, id: JobId, stage: Stage) -> Stage {
        let Some(Known { held: Held::Sending(instead), .. }) = self.known.get(&id) else { return stage };
        let stage = instead.unwrap_or(stage);
        let Some(Known { tenant, function, .. }) = self.known.remove(&id) else { return stage };
        self.sending = self.sending.saturating_sub(1);
        if let Some(of) = self.tenants.get_mut(&tenant) {
            of.sending = of.sending.saturating_sub(1);
            of.remove(&function, id);
            if of.due.is_empty() && of.dead.is_empty() && of.sending == 0 {
                self.tenants.remove(&tenant);
            }
        }
        self.put(tenant, function, id, stage);
        stage
    }

    /// Returns when the next delivery is due that may be sent, or the next dead letter is old enough to be forgotten.
    pub fn next_event(&self) -> Option<Millis> {
        let oldest = self.tenants.values().filter_map(|of| of.dead.first());
        let oldest = oldest.map(|(died, _)| died.saturating_add(DEAD_MS)).min();
        self.with_room().map(|(_, at, _)| at).min().into_iter().chain(oldest).min()
    }

    /// Returns dead letters that are too old, or too many, at most `most`.
    pub fn excess(&self, now: Millis, most: usize) -> Vec<JobId> {
        let of_tenant = |of: &OfTenant| {
            let surplus = of.dead.len().saturating_sub(DEAD_MAX);
            let old = |died: Millis| died.saturating_add(DEAD_MS) <= now;
            let excess = of.dead.iter().enumerate().take_while(move |(at, (died, _))| *at < surplus || old(*died));
            excess.map(|(_, (_, id))| *id).take(most).collect::<Vec<_>>()
        };
        self.tenants.values().flat_map(of_tenant).take(most).collect()
    }

    /// Removes a dead letter. Returns whether it still was one.
    pub fn forget_dead(&mut self, id: JobId) -> bool {
        let is_dead = matches!(self.known.get(&id), Some(Known { held: Held::Dead(_), .. }));
        if is_dead {
            self.remove(id);
        }
        is_dead
    }

    /// Returns the jobs of a function with deliveries, in the order of their ids, from after one: all, the dead ones, or
    /// the pending ones.
    pub fn of_function(
        &self,
        (tenant, function): (&TenantName, &FunctionName),
        is_dead: Option<bool>,
        after: Option<JobId>,
    ) -> impl Iterator<Item = JobId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let own = self.tenants.get(tenant).and_then(|of| of.functions.get(function)).into_iter();
        let own = own.flat_map(move |own| own.range((from, Bound::Unbounded)).copied());
        own.filter(move |id| {
            let is = self.known.get(id).map(|known| matches!(known.held, Held::Dead(_)));
            is.is_some_and(|is| is_dead.is_none_or(|wanted| wanted == is))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(tenant: &str) -> (TenantName, FunctionName) {
        (TenantName::new(tenant).unwrap(), FunctionName::new("blur").unwrap())
    }

    fn set(deliveries: &mut Deliveries, tenant: &str, stage: Stage) -> JobId {
        let (id, (tenant, function)) = (JobId::new(), names(tenant));
        deliveries.set((&tenant, &function), id, stage);
        id
    }

    #[test]
    fn a_tenant_has_at_most_four_at_once_and_all_together_32() {
        let mut deliveries = Deliveries::default();
        for at in 0..10 {
            set(&mut deliveries, "slow", Stage::Due(at));
        }
        let other = set(&mut deliveries, "other", Stage::Due(9));
        let taken: Vec<_> = std::iter::from_fn(|| deliveries.take(9)).collect();
        assert!(taken.len() == 5 && taken.contains(&other));
        assert_eq!(deliveries.next_event(), None, "what waits for a try to end has no time");
        deliveries.done(taken[0], Stage::Gone);
        assert_eq!(deliveries.next_event(), Some(4));
        for tenant in 0..40 {
            for _ in 0..4 {
                set(&mut deliveries, &format!("t{tenant}"), Stage::Due(0));
            }
        }
        assert_eq!(std::iter::from_fn(|| deliveries.take(9)).count(), 32 - 4);
    }

    #[test]
    fn eight_tenants_with_slow_receivers_leave_places_to_others() {
        let mut deliveries = Deliveries::default();
        for tenant in 0..8 {
            for _ in 0..100 {
                set(&mut deliveries, &format!("slow{tenant}"), Stage::Due(0));
            }
        }
        assert_eq!(std::iter::from_fn(|| deliveries.take(9)).count(), 16, "two each");
        for tenant in 0..16 {
            let quick = set(&mut deliveries, &format!("quick{tenant}"), Stage::Due(8));
            assert_eq!(deliveries.take(9), Some(quick), "before those that have waited longer");
        }
        assert_eq!(deliveries.take(9), None);
        assert!((0..4).all(|own| may_take(own, own)) && !may_take(4, 4) && !may_take(0, 32));
    }

    #[test]
    fn a_function_lists_its_own_deliveries_only() {
        let mut deliveries = Deliveries::default();
        let (tenant, function) = names("acme");
        let (due, dead) = (set(&mut deliveries, "acme", Stage::Due(1)), set(&mut deliveries, "acme", Stage::Dead(1)));
        set(&mut deliveries, "other", Stage::Due(1));
        let listed = |deliveries: &Deliveries, is_dead, after| {
            deliveries.of_function((&tenant, &function), is_dead, after).collect::<Vec<_>>()
        };
        assert_eq!(listed(&deliveries, None, None), [due, dead]);
        assert_eq!(
            (listed(&deliveries, Some(true), None), listed(&deliveries, None, Some(due))),
            (vec![dead], vec![dead])
        );
        let taken = std::iter::from_fn(|| deliveries.take(1)).count();
        assert_eq!((taken, listed(&deliveries, Some(false), None)), (2, vec![due]), "one that is sent is pending");
        deliveries.done(due, Stage::Gone);
        deliveries.forget(dead);
        assert_eq!(listed(&deliveries, None, None), []);
    }

    #[test]
    fn what_is_said_during_a_try_counts_more_than_its_end() {
        let mut deliveries = Deliveries::default();
        let (tenant, function) = names("acme");
        let id = set(&mut deliveries, "acme", Stage::Due(1));
        assert_eq!(deliveries.take(1), Some(id));
        deliveries.forget(id);
        deliveries.set((&tenant, &function), id, Stage::Due(7));
        assert_eq!(deliveries.take(10), None, "never twice at once");
        assert_eq!(deliveries.done(id, Stage::Dead(3)), Stage::Due(7));
        assert_eq!(deliveries.take(10), Some(id));
        deliveries.forget(id);
        assert_eq!(deliveries.done(id, Stage::Due(11)), Stage::Gone);
        assert!(!deliveries.holds(id) && deliveries.tenants.is_empty());
    }

    #[test]
    fn dead_letters_are_bounded_in_number_and_age() {
        let mut deliveries = Deliveries::default();
        let oldest = set(&mut deliveries, "acme", Stage::Dead(1));
        for _ in 0..DEAD_MAX {
            set(&mut deliveries, "acme", Stage::Dead(100));
        }
        assert_eq!(deliveries.excess(200, 50), [oldest]);
        assert!(deliveries.forget_dead(oldest) && !deliveries.forget_dead(oldest));
        assert_eq!(deliveries.excess(200, 50), []);
        assert_eq!(deliveries.next_event(), Some(100 + DEAD_MS));
        assert_eq!(deliveries.excess(100 + DEAD_MS, 50).len(), 50);
    }

    proptest! {
        /// Whatever happens, each delivery is in one place, and what is taken was due.
        #[test]
        fn a_delivery_is_in_one_place(steps in proptest::collection::vec((0u8..5, any::<usize>(), 0i64..50), 0..200)) {
            let mut deliveries = Deliveries::default();
            let (mut all, mut sending, mut now): (Vec<JobId>, Vec<JobId>, _) = (Vec::new(), Vec::new(), 0);
            for (what, which, time) in steps {
                match what {
                    0 => all.push(set(&mut deliveries, ["a", "b"][which % 2], Stage::Due(now + time))),
                    1 => now += time,
                    2 => sending.extend(deliveries.take(now)),
                    3 if !sending.is_empty() => {
                        let id = sending.swap_remove(which % sending.len());
                        let stage = [Stage::Gone, Stage::Due(now + time), Stage::Dead(now)][which % 3];
                        prop_assert_eq!(deliveries.done(id, stage), stage);
                        prop_assert_eq!(deliveries.holds(id), stage != Stage::Gone);
                    }
                    4 if !all.is_empty() => {
                        let id = all[which % all.len()];
                        if !deliveries.is_sending(id) {
                            deliveries.forget(id);
                            prop_assert!(!deliveries.holds(id));
                        }
                    }
                    _ => {}
                }
                let placed: usize = deliveries.tenants.values().map(|of| of.due.len() + of.dead.len() + of.sending).sum();
                prop_assert_eq!(placed, deliveries.known.len());
                prop_assert_eq!(deliveries.sending, sending.len());
                prop_assert!(deliveries.tenants.values().all(|of| of.sending <= SENDING_OF_TENANT_MAX));
                let listed = deliveries.tenants.values().flat_map(|of| of.functions.values());
                prop_assert_eq!(listed.map(BTreeSet::len).sum::<usize>(), deliveries.known.len());
            }
        }
    }
}
