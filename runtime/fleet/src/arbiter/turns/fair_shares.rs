//! Shares one GPU among tenants by weighted virtual time.
//!
//! In: tenants with their weights, grants, and the time for which a tenant kept others waiting. Out: each tenant's
//! virtual time. The tenant with the least is furthest behind, and is next.
//!
//! A tenant's virtual time advances by the time that it keeps others waiting, divided by its weight. A tenant that
//! comes back starts at the virtual time of the latest grant, so it has no credit from idling (start-time fair
//! queueing: Goyal, Vin, Cheng, SIGCOMM 1996).
//!
//! Invariant: virtual times never go back.

use gannet_base::names::TenantName;
use std::collections::HashMap;
use std::time::Duration;

/// The shares of all tenants in one GPU.
#[derive(Debug, Default)]
pub(super) struct FairShares {
    tenants: HashMap<TenantName, Share>,
    /// The virtual time at which the latest grant began.
    latest_grant_ns: u64,
    /// The tenant that pays for the time in which the GPU cannot be granted: that of the latest holder.
    payer: Option<TenantName>,
}

#[derive(Debug, Default)]
struct Share {
    /// Nanoseconds, divided by the weight.
    virtual_ns: u64,
    weight: u64,
    members: usize,
}

impl FairShares {
    /// Adds a member of a tenant.
    pub(super) fn join(&mut self, tenant: &TenantName, weight: u32) {
        let share = self.tenants.entry(tenant.clone()).or_default();
        share.weight = u64::from(weight.max(1));
        share.members += 1;
    }

    /// Removes a member of a tenant.
    pub(super) fn leave(&mut self, tenant: &TenantName) {
        if let Some(share) = self.tenants.get_mut(tenant) {
            share.members -= 1;
        }
    }

    /// Changes a tenant's weight.
    pub(super) fn set_weight(&mut self, tenant: &TenantName, weight: u32) {
        if let Some(share) = self.tenants.get_mut(tenant) {
            share.weight = u64::from(weight.max(1));
        }
    }

    /// A tenant's virtual time.
    pub(super) fn virtual_ns(&self, tenant: &TenantName) -> u64 {
        self.tenants.get(tenant).map_or(0, |share| share.virtual_ns)
    }

    /// Raises a tenant's virtual time to that of the latest grant. Called when the tenant wants the GPU after it
    /// neither held it nor waited for it.
    pub(super) fn catch_up(&mut self, tenant: &TenantName) {
        if let Some(share) = self.tenants.get_mut(tenant) {
            share.virtual_ns = share.virtual_ns.max(self.latest_grant_ns);
        }
    }

    /// Notes that a member of this tenant was granted the GPU. The tenant pays from now on.
    pub(super) fn granted(&mut self, tenant: &TenantName) {
        self.latest_grant_ns = self.latest_grant_ns.max(self.virtual_ns(tenant));
        self.payer = Some(tenant.clone());
    }

    /// The tenant that pays for the time that passes.
    pub(super) fn payer(&self) -> Option<&TenantName> {
        self.payer.as_ref()
    }

    /// No tenant pays until the next grant.
    pub(super) fn nobody_pays(&mut self) {
        self.payer = None;
    }

    /// Adds time to the virtual time of the tenant that pays.
    pub(super) fn charge(&mut self, passed: Duration) {
        if let Some(share) = self.payer.as_ref().and_then(|payer| self.tenants.get_mut(payer)) {
            let ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
            share.virtual_ns = share.virtual_ns.saturating_add(ns / share.weight.max(1));
        }
    }

    /// Forgets tenants without members that have used no more than the others. If they came back, they would start at
    /// the same virtual time.
    pub(super) fn forget_absent(&mut self) {
        let latest_grant_ns = self.latest_grant_ns;
        self.tenants.retain(|_, share| share.members > 0 || share.virtual_ns > latest_grant_ns);
    }

    /// How many tenants it remembers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tenants.len()
    }
}
