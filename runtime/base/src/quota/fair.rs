//! Decides which tenant gets the next permit when all are taken: the one that holds the fewest permits, among equals the
//! one that has used least, and then the one that has waited longest. Pure.
//!
//! Where waiters name their function, a tenant's permit goes to the function that holds the fewest, so that one with long
//! attempts does not displace the others.
//!
//! Invariants: no permit is free while a tenant waits that may have one more. Permits and waiters are counted exactly. A
//! waiting tenant is served before every tenant that holds more permits.

use crate::names::{FunctionName, TenantName};
use std::collections::{HashMap, VecDeque};

#[derive(Debug)]
struct Waiting<T> {
    number: u64,
    function: Option<FunctionName>,
    waiter: T,
}

#[derive(Debug)]
struct TenantQueue<T> {
    held: usize,
    /// Permits by function, of those that were asked for with one.
    held_by: HashMap<FunctionName, usize>,
    waiting: VecDeque<Waiting<T>>,
}

impl<T> Default for TenantQueue<T> {
    fn default() -> Self {
        Self { held: 0, held_by: HashMap::new(), waiting: VecDeque::new() }
    }
}

impl<T> TenantQueue<T> {
    fn hold(&mut self, function: Option<FunctionName>) {
        self.held += 1;
        if let Some(function) = function {
            *self.held_by.entry(function).or_default() += 1;
        }
    }

    fn give_back(&mut self, function: Option<&FunctionName>) {
        self.held = self.held.saturating_sub(1);
        let Some(function) = function else { return };
        if let Some(held) = self.held_by.get_mut(function) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held_by.remove(function);
            }
        }
    }

    /// Takes the waiter that is next out of the queue.
    fn take_next(&mut self) -> Option<Waiting<T>> {
        let held = |waiting: &Waiting<T>| {
            waiting.function.as_ref().and_then(|function| self.held_by.get(function)).copied().unwrap_or(0)
        };
        let (at, _) = self.waiting.iter().enumerate().min_by_key(|(at, waiting)| (held(waiting), *at))?;
        self.waiting.remove(at)
    }
}

/// The permits of the server. `T` is the waiter: the handle by which the caller hands it its permit.
#[derive(Debug)]
pub struct FairPermits<T> {
    free: usize,
    /// Most permits that one tenant may hold.
    tenant_max: usize,
    /// What tenants have used recently, if they are charged: their latest use counts most.
    used: HashMap<TenantName, u64>,
    tenants: HashMap<TenantName, TenantQueue<T>>,
    /// Number of waiters, of all tenants.
    waiting: usize,
    /// Number of the latest waiter.
    next: u64,
}

/// The outcome of [`FairPermits::ask`].
#[derive(Debug, PartialEq, Eq)]
pub enum Acquired<T> {
    /// A permit was free and is taken. The unused waiter is returned.
    Now(T),
    /// The waiter is queued under this number.
    Queued(u64),
}

impl<T> FairPermits<T> {
    /// Makes this many permits, all free. One tenant may hold at most `tenant_max` of them.
    pub fn new(permits: usize, tenant_max: usize) -> Self {
        Self { free: permits, tenant_max, used: HashMap::new(), tenants: HashMap::new(), waiting: 0, next: 0 }
    }

    /// Adds to what a tenant has used, after what all have used is multiplied by `kept`, from 0 to 1. Only comparisons
    /// between tenants matter, so the values are reduced only at a charge.
    pub fn charge(&mut self, tenant: &TenantName, amount: u64, kept: f64) {
        self.used.retain(|_, used| {
            // Rounded down, so that a tenant without new use is removed eventually.
            *used = (*used as f64 * kept.clamp(0.0, 1.0)) as u64;
            *used > 0
        });
        let used = self.used.entry(tenant.clone()).or_default();
        *used = used.saturating_add(amount);
    }

    /// Returns the number of waiters of all tenants.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a permit for a tenant if one is free, and returns whether it did.
    pub fn try_acquire(&mut self, tenant: &TenantName) -> bool {
        self.try_acquire_for(tenant, None)
    }

    /// Does the same for one of the tenant's functions.
    pub fn try_acquire_for(&mut self, tenant: &TenantName, function: Option<&FunctionName>) -> bool {
        if self.free == 0 || self.tenants.get(tenant).is_some_and(|queue| queue.held >= self.tenant_max) {
            return false;
        }
        self.free -= 1;
        self.tenants.entry(tenant.clone()).or_default().hold(function.cloned());
        true
    }

    /// Takes a permit for a tenant if one is free, or else queues the waiter.
    pub fn ask(&mut self, tenant: &TenantName, function: Option<&FunctionName>, waiter: T) -> Acquired<T> {
        if self.try_acquire_for(tenant, function) {
            return Acquired::Now(waiter);
        }
        self.next += 1;
        let waiting = Waiting { number: self.next, function: function.cloned(), waiter };
        self.tenants.entry(tenant.clone()).or_default().waiting.push_back(waiting);
        self.waiting += 1;
        Acquired::Queued(self.next)
    }

    /// Removes a waiter that no longer wants a permit, and returns whether it was still queued. If not, it has been
    /// given a permit, which it must release.
    pub fn leave(&mut self, tenant: &TenantName, number: u64) -> bool {
        let Some(queue) = self.tenants.get_mut(tenant) else { return false };
        let Some(at) = queue.waiting.iter().position(|waiting| waiting.number == number) else { return false };
        queue.waiting.remove(at);
        self.waiting -= 1;
        self.tidy(tenant);
        true
    }

    /// Gives a permit back. If a tenant waits that may have one more, its waiter gets it at once and is returned, so that
    /// the caller can notify it.
    pub fn release(&mut self, tenant: &TenantName, function: Option<&FunctionName>) -> Option<T> {
        if let Some(queue) = self.tenants.get_mut(tenant) {
            queue.give_back(function);
        }
        if self.waiting == 0 {
            self.free += 1;
            self.tidy(tenant);
            return None;
        }
        let next = self
            .tenants
            .iter()
            .filter(|(_, queue)| queue.held < self.tenant_max)
            .filter_map(|(name, queue)| {
                let used = self.used.get(name).copied().unwrap_or(0);
                Some((queue.held, used, queue.waiting.front()?.number, name))
            })
            .min()
            .map(|(.., name)| name.clone());
        let told = match next.as_ref().and_then(|name| self.tenants.get_mut(name)) {
            Some(queue) => queue.take_next().map(|next| {
                queue.hold(next.function);
                self.waiting -= 1;
                next.waiter
            }),
            None => {
                self.free += 1;
                None
            }
        };
        self.tidy(tenant);
        told
    }

    fn tidy(&mut self, tenant: &TenantName) {
        if self.tenants.get(tenant).is_some_and(|queue| queue.held == 0 && queue.waiting.is_empty()) {
            self.tenants.remove(tenant);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(index: usize) -> TenantName {
        TenantName::new(&format!("t{index}")).unwrap()
    }

    #[test]
    fn whoever_holds_the_fewest_is_next() {
        let mut permits = FairPermits::new(3, usize::MAX);
        for _ in 0..3 {
            assert!(matches!(permits.ask(&name(0), None, 0), Acquired::Now(_)));
        }
        for waiter in 1..4 {
            assert!(matches!(permits.ask(&name(0), None, waiter), Acquired::Queued(_)));
        }
        assert!(matches!(permits.ask(&name(1), None, 10), Acquired::Queued(_)));
        assert!(matches!(permits.ask(&name(1), None, 11), Acquired::Queued(_)));
        assert_eq!(permits.release(&name(0), None), Some(10), "the other has none");
        assert_eq!(permits.release(&name(0), None), Some(1), "now both hold one, and this one has waited longer");
        assert_eq!(permits.release(&name(0), None), Some(2), "again");
        assert_eq!(permits.release(&name(1), None), Some(11), "it holds none now");
    }

    #[test]
    fn among_equals_the_one_that_has_used_least_is_next_and_nobody_holds_more_than_allowed() {
        let mut permits = FairPermits::new(2, 1);
        permits.charge(&name(0), 100, 0.5);
        permits.charge(&name(1), 60, 0.5);
        assert!(permits.try_acquire(&name(2)) && !permits.try_acquire(&name(2)), "one permit is free, but not for it");
        assert!(matches!(permits.ask(&name(2), None, 20), Acquired::Queued(_)));
        assert!(permits.try_acquire(&name(3)));
        for (tenant, waiter) in [(1, 10), (0, 0), (0, 1)] {
            assert!(matches!(permits.ask(&name(tenant), None, waiter), Acquired::Queued(_)));
        }
        assert_eq!(permits.release(&name(3), None), Some(0), "half of 100 is left, which is less than 60");
        permits.charge(&name(0), 100, 1.0);
        assert_eq!(permits.release(&name(0), None), Some(10), "it has used more now");
        assert_eq!(permits.release(&name(1), None), Some(1));
        assert_eq!(permits.release(&name(0), None), None, "who waits holds one");
        assert_eq!((permits.waiting(), permits.try_acquire(&name(0))), (1, true));
        assert_eq!(permits.release(&name(2), None), Some(20));
    }

    #[test]
    fn among_a_tenants_functions_the_one_that_holds_the_fewest_is_next() {
        let function = |text: &str| FunctionName::new(text).unwrap();
        let (long, short) = (function("long"), function("short"));
        let mut permits = FairPermits::new(3, usize::MAX);
        for _ in 0..3 {
            assert!(matches!(permits.ask(&name(0), Some(&long), 0), Acquired::Now(_)));
        }
        for (waiter, asking) in [(1, &long), (2, &long), (10, &short), (11, &short)] {
            assert!(matches!(permits.ask(&name(0), Some(asking), waiter), Acquired::Queued(_)));
        }
        assert_eq!(permits.release(&name(0), Some(&long)), Some(10));
        assert_eq!(permits.release(&name(0), Some(&long)), Some(1), "each holds one, and this one has waited longer");
        assert_eq!(permits.release(&name(0), Some(&short)), Some(11));
        assert_eq!(permits.release(&name(0), Some(&short)), Some(2), "nobody else waits");
        for _ in 0..3 {
            assert_eq!(permits.release(&name(0), Some(&long)), None);
        }
        assert!(permits.tenants.is_empty());
    }

    proptest! {
        #[test]
        fn no_place_is_lost_or_given_twice(
            most in 1_usize..4,
            steps in proptest::collection::vec((0_usize..4, 0_u8..3), 1..300),
        ) {
            let mut permits = FairPermits::new(3, most);
            let (mut held, mut waits) = ([0_usize; 4], Vec::<(usize, u64)>::new());
            for (tenant, what) in steps {
                match what {
                    0 => match permits.ask(&name(tenant), None, tenant) {
                        Acquired::Now(_) => held[tenant] += 1,
                        Acquired::Queued(number) => waits.push((tenant, number)),
                    },
                    1 if held[tenant] > 0 => {
                        held[tenant] -= 1;
                        let least = waits.iter().map(|(t, _)| held[*t]).filter(|held| *held < most).min();
                        match permits.release(&name(tenant), None) {
                            Some(told) => {
                                prop_assert_eq!(Some(held[told]), least);
                                held[told] += 1;
                                let first = waits.iter().position(|(t, _)| *t == told).unwrap();
                                waits.remove(first);
                            }
                            None => prop_assert!(waits.iter().all(|(t, _)| held[*t] >= most)),
                        }
                    }
                    2 => if let Some(at) = waits.iter().position(|(t, _)| *t == tenant) {
                        let (_, number) = waits.remove(at);
                        prop_assert!(permits.leave(&name(tenant), number));
                    },
                    _ => {}
                }
                prop_assert_eq!(held.iter().sum::<usize>() + permits.free, 3);
                prop_assert_eq!(permits.waiting(), waits.len());
                prop_assert!(held.iter().all(|held| *held <= most));
                prop_assert!(permits.free == 0 || waits.iter().all(|(t, _)| held[*t] >= most));
            }
        }
    }
}
