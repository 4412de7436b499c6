//! The processes that share one GPU, and which of them wait for it.
//!
//! In: processes that join, leave, want the GPU or are granted it. Out: who waits, in which order they came, for which
//! tenants.
//!
//! Invariant: no two waiting members have the same position in the order of arrival.

use gannet_base::names::TenantName;
use std::collections::HashMap;

/// A process with a GPU device. The arbiter numbers them and never uses a number again.
pub type MemberId = u64;

/// The processes that share one GPU.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: HashMap<MemberId, Member>,
    arrivals: u64,
}

#[derive(Debug)]
struct Member {
    tenant: TenantName,
    /// Its position in the order of arrival, if it waits.
    arrival: Option<u64>,
    /// Whether it ever held the GPU.
    was_granted: bool,
}

/// A member that waits for the GPU.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    pub(super) id: MemberId,
    pub(super) tenant: &'a TenantName,
    /// Its position in the order of arrival.
    pub(super) arrival: u64,
}

impl Members {
    /// Adds a member.
    pub(super) fn join(&mut self, id: MemberId, tenant: &TenantName) {
        self.by_id.insert(id, Member { tenant: tenant.clone(), arrival: None, was_granted: false });
    }

    /// Removes a member and returns its tenant.
    pub(super) fn leave(&mut self, id: MemberId) -> Option<TenantName> {
        self.by_id.remove(&id).map(|member| member.tenant)
    }

    /// The tenant of a member; none if there is no such member.
    pub(super) fn tenant(&self, id: MemberId) -> Option<&TenantName> {
        self.by_id.get(&id).map(|member| &member.tenant)
    }

    /// Whether a member ever held the GPU.
    pub(super) fn was_granted(&self, id: MemberId) -> bool {
        self.by_id.get(&id).is_some_and(|member| member.was_granted)
    }

    /// Makes a member wait, unless it does already.
    pub(super) fn start_waiting(&mut self, id: MemberId) {
        if let Some(member) = self.by_id.get_mut(&id).filter(|member| member.arrival.is_none()) {
            self.arrivals += 1;
            member.arrival = Some(self.arrivals);
        }
    }

    /// Notes that a member was granted the GPU, so it waits no longer.
    pub(super) fn granted(&mut self, id: MemberId) {
        if let Some(member) = self.by_id.get_mut(&id) {
            (member.arrival, member.was_granted) = (None, true);
        }
    }

    /// The members that wait, in no particular order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Waiting<'_>> {
        self.by_id
            .iter()
            .filter_map(|(id, member)| Some(Waiting { id: *id, tenant: &member.tenant, arrival: member.arrival? }))
    }

    /// Whether any member but this one waits.
    pub(super) fn others_wait(&self, id: MemberId) -> bool {
        self.waiting().any(|waiting| waiting.id != id)
    }

    /// Whether any member of this tenant waits.
    pub(super) fn tenant_waits(&self, tenant: &TenantName) -> bool {
        self.waiting().any(|waiting| waiting.tenant == tenant)
    }

    /// Whether any member of a tenant other than this one waits.
    pub(super) fn another_tenant_waits(&self, tenant: &TenantName) -> bool {
        self.waiting().any(|waiting| waiting.tenant != tenant)
    }
}
