//! The index of deliveries in memory: what is due, what is being sent, what was given up.
//!
//! ```text
//!  expect ─▶ due ─take─▶ sending ─done─▶ due again | dead | gone
//! ```
//!
//! Invariant: at most [`SENDING_MAX`] are sent at once, and at most [`SENDING_OF_TENANT_MAX`] of one tenant, so that a
//! tenant whose receivers are slow delays nobody else.

use crate::job::{JobId, Millis};
use gannet_base::names::{FunctionName, TenantName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

/// Deliveries that are sent at once.
pub const SENDING_MAX: usize = 32;
/// Of one tenant.
pub const SENDING_OF_TENANT_MAX: usize = 4;
/// Dead letters of one tenant.
pub const DEAD_MAX: usize = 10_000;
/// How long dead letters are kept, in milliseconds.
pub const DEAD_MS: Millis = 7 * 24 * 3_600_000;

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
                self.tenants.entry(tenant.clone()).or_default().due.insert((at, id));
                Held::Due(at)
            }
            Stage::Dead(at) => {
                self.tenants.entry(tenant.clone()).or_default().dead.insert((at, id));
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

    fn with_room(&self) -> impl Iterator<Item = (Millis, JobId)> + '_ {
        let has_room = self.sending < SENDING_MAX;
        let free = self.tenants.values().filter(move |of| has_room && of.sending < SENDING_OF_TENANT_MAX);
        free.filter_map(|of| of.due.first().copied())
    }

    /// Takes the delivery that has been due longest and may be sent. It counts until [`Deliveries::done`].
    pub fn take(&mut self, now: Millis) -> Option<JobId> {
        let (at, id) = self.with_room().min().filter(|(at, _)| *at <= now)?;
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
        self.with_room().map(|(at, _)| at).min().into_iter().chain(oldest).min()
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
        let own = self.known.range((from, Bound::Unbounded)).filter(move |(_, known)| {
            let dead = matches!(known.held, Held::Dead(_));
            known.tenant == *tenant && known.function == *function && is_dead.is_none_or(|wanted| wanted == dead)
        });
        own.map(|(id, _)| *id)
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
        assert_eq!((taken.len(), taken.last()), (5, Some(&other)));
        assert_eq!(deliveries.next_event(), None, "what waits for a try to end has no time");
        deliveries.done(taken[0], Stage::Gone);
        assert_eq!(deliveries.next_event(), Some(4));
        for tenant in 0..10 {
            for _ in 0..4 {
                set(&mut deliveries, &format!("t{tenant}"), Stage::Due(0));
            }
        }
        assert_eq!(std::iter::from_fn(|| deliveries.take(9)).count(), 32 - 4);
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
            }
        }
    }
}
