//! Tenants that get no grant for a while because their processes died while they held the GPU. After each such death
//! the other tenants have to wait for a probe.
//!
//! In: the deaths, with their times. Out: the time until which a tenant is barred. The first [`DEATHS_FREE`] deaths
//! have no consequence. The next one bars the tenant for [`BAR_FIRST`], and each further one for twice as long, up to
//! [`BAR_MAX`].
//!
//! Invariant: a death is counted together with earlier ones only if the one before it was within [`DEATHS_WITHIN`].

use gannet_base::names::TenantName;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Deaths that are further apart are not counted together.
const DEATHS_WITHIN: Duration = Duration::from_secs(300);
/// How many deaths have no consequence for the tenant.
const DEATHS_FREE: u32 = 2;
/// How long the next death bars a tenant. Each further one doubles it.
pub(super) const BAR_FIRST: Duration = Duration::from_secs(1);
/// The longest time that a tenant is barred.
const BAR_MAX: Duration = Duration::from_secs(60);

/// The deaths of all tenants' processes while they held one GPU.
#[derive(Debug, Default)]
pub(super) struct Barring {
    deaths: HashMap<TenantName, Deaths>,
}

#[derive(Debug)]
struct Deaths {
    /// How many there were, each within [`DEATHS_WITHIN`] of the one before.
    count: u32,
    latest: Instant,
}

impl Deaths {
    fn still_count(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.latest) < DEATHS_WITHIN
    }
}

impl Barring {
    /// Notes that a process of this tenant died while it held the GPU, or was killed because it did not release it.
    pub(super) fn died_with_gpu(&mut self, tenant: &TenantName, now: Instant) {
        let earlier = self.deaths.get(tenant).filter(|deaths| deaths.still_count(now)).map_or(0, |deaths| deaths.count);
        self.deaths.insert(tenant.clone(), Deaths { count: earlier.saturating_add(1), latest: now });
    }

    /// Returns until when a tenant gets no grant; `None` if it is not barred. The time may be in the past.
    pub(super) fn barred_until(&self, tenant: &TenantName) -> Option<Instant> {
        let deaths = self.deaths.get(tenant)?;
        let doublings = deaths.count.checked_sub(DEATHS_FREE + 1)?;
        Some(deaths.latest + BAR_FIRST.saturating_mul(1 << doublings.min(6)).min(BAR_MAX))
    }

    /// Whether a tenant gets no grant now.
    pub(super) fn is_barred(&self, tenant: &TenantName, now: Instant) -> bool {
        self.barred_until(tenant).is_some_and(|until| until > now)
    }

    /// Forgets deaths that no longer count.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.deaths.retain(|_, deaths| deaths.still_count(now));
    }
}
