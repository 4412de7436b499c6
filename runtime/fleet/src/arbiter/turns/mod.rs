//! Decides whose turn it is on one GPU.
//!
//! In: what happened, and when ([`Turns::join`], [`Turns::on_message`], [`Turns::on_exit`], [`Turns::on_device_lost`],
//! [`Turns::probed`], [`Turns::tick`]). Out: what the arbiter has to do ([`Action`]), and when to call [`Turns::tick`]
//! next ([`Turns::deadline`]). All of it is pure: it holds no lock, awaits nothing, and takes the time as an argument.
//!
//! Members are processes with a GPU device: workers and builders. Each belongs to a tenant. One file holds each part of
//! the decision, and this file puts them together:
//! - `gpu_state`: what state the GPU is in. It draws the states.
//! - `members`: which processes there are, and which of them wait.
//! - `fair_shares`: which tenant is next.
//! - `barring`: which tenants get no grant for a while, because their processes died while they held the GPU.
//! - `device_losses`: whether lost devices mean that the GPU itself is broken.
//! - `held_time`: how much GPU time may be billed.
//!
//! A member's messages only change whether it waits and whether it gives the GPU back. Time is measured here.
//!
//! Invariants: at most one member holds the GPU. While a member waits whose tenant is not barred, the GPU is held, or
//! is on its way back, or is not trusted. After a member died while it held the GPU or kept it too long, the GPU is
//! granted again only when the process has ended and a probe has passed.

mod members;
mod held_time;
mod barring;
mod device_losses;
mod fair_shares;
mod gpu_state;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod lossy_messages;

pub use gpu_state::{Health, Timing};
pub use members::MemberId;

use barring::Barring;
use device_losses::DeviceLosses;
use fair_shares::FairShares;
use gannet_base::names::TenantName;
use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use gpu_state::{Due, GpuState};
use held_time::HeldTime;
use members::Members;
use std::time::{Duration, Instant};

/// What the arbiter has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a member.
    Tell(MemberId, ArbiterMessage),
    /// Kill a member that did not release the GPU.
    Kill(MemberId),
    /// Probe the GPU, and pass the result to [`Turns::probed`].
    Probe,
}

/// One GPU and the processes that share it.
#[derive(Debug)]
pub struct Turns {
    gpu: GpuState,
    members: Members,
    shares: FairShares,
    barring: Barring,
    losses: DeviceLosses,
    held_time: HeldTime,
    /// Time up to here has been counted.
    counted_until: Instant,
}

impl Turns {
    /// A GPU that nobody holds.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self {
            gpu: GpuState::new(timing),
            members: Members::default(),
            shares: FairShares::default(),
            barring: Barring::default(),
            losses: DeviceLosses::default(),
            held_time: HeldTime::default(),
            counted_until: now,
        }
    }

    /// Adds a process that has a device, for its tenant.
    pub fn join(&mut self, id: MemberId, tenant: &TenantName, weight: u32) {
        self.members.join(id, tenant);
        self.shares.join(tenant, weight);
        self.held_time.join(id);
    }

    /// Changes a tenant's weight.
    pub fn set_weight(&mut self, tenant: &TenantName, weight: u32) {
        self.shares.set_weight(tenant, weight);
    }

    /// Handles a message of a member. Messages of processes that are no members are ignored.
    pub fn on_message(&mut self, id: MemberId, message: HolderMessage, now: Instant) -> Vec<Action> {
        self.count_time(now);
        if self.members.tenant(id).is_none() {
            return Vec::new();
        }
        let (holds, epoch) = (self.gpu.holder() == Some(id), self.gpu.epoch());
        match message {
            HolderMessage::Release { epoch: released, wants } if holds && released == epoch => {
                if wants {
                    self.start_waiting(id);
                }
                self.gpu.release();
            }
            // The Granted did not reach it, so it is sent again.
            HolderMessage::Want(seen) if holds && seen < epoch => {
                return vec![self.granted(id)];
            }
            HolderMessage::Want(_) => {
                self.start_waiting(id);
                // A holder that wants the GPU again has given it back, and its Release was lost.
                if holds {
                    self.gpu.release();
                }
            }
            HolderMessage::Release { .. } => {}
        }
        self.decide(now)
    }

    /// Handles the end of a member's process, which was reaped.
    pub fn on_exit(&mut self, id: MemberId, now: Instant) -> Vec<Action> {
        self.count_time(now);
        let Some(tenant) = self.members.leave(id) else { return Vec::new() };
        self.held_time.leave(id);
        self.shares.leave(&tenant);
        if self.gpu.process_ended(id) {
            self.barring.died_with_gpu(&tenant, now);
            return vec![Action::Probe];
        }
        self.decide(now)
    }

    /// Notes that a member's device was lost. [`Turns::on_exit`] follows.
    pub fn on_device_lost(&mut self, id: MemberId, now: Instant) {
        // The GPU cannot be the reason for the loss if the member never held it.
        if let Some(tenant) = self.members.tenant(id).filter(|_| self.members.was_granted(id)) {
            self.losses.record(tenant, now);
        }
    }

    /// Handles the result of a probe.
    pub fn probed(&mut self, passed: bool, now: Instant) -> Vec<Action> {
        self.count_time(now);
        if !self.gpu.probed(passed, now) {
            return Vec::new();
        }
        self.decide(now)
    }

    /// Does what is due now. Call it at [`Turns::deadline`].
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.count_time(now);
        self.decide(now)
    }

    /// When [`Turns::tick`] has something to do; `None` if only an event can change anything.
    pub fn deadline(&self) -> Option<Instant> {
        if self.gpu.is_free() {
            // The only members that wait for a free GPU are those of barred tenants.
            return self.members.waiting().filter_map(|waiting| self.barring.barred_until(waiting.tenant)).min();
        }
        self.gpu.deadline(self.is_contended())
    }

    /// Whether the GPU can be used.
    pub fn health(&self, now: Instant) -> Health {
        self.gpu.health(now)
    }

    /// The tenant whose process holds the GPU.
    pub fn holder(&self) -> Option<&TenantName> {
        self.members.tenant(self.gpu.holder()?)
    }

    /// How long members have held the GPU, all together.
    pub fn held(&mut self, now: Instant) -> Duration {
        self.count_time(now);
        self.held_time.total()
    }

    /// Returns how much of `reported` GPU time a member can have used: never more than it held the GPU. The returned
    /// time counts as billed.
    pub fn bill(&mut self, id: MemberId, reported: Duration, now: Instant) -> Duration {
        self.count_time(now);
        self.held_time.bill(id, reported)
    }

    /// How long a member has held the GPU without that time being billed to a request.
    pub fn unbilled(&mut self, id: MemberId, now: Instant) -> Duration {
        self.count_time(now);
        self.held_time.unbilled(id)
    }

    /// Counts the time since the last event: as held by the holder, and as used by the tenant that keeps others
    /// waiting.
    fn count_time(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted_until);
        self.counted_until = self.counted_until.max(now);
        if let Some(holder) = self.gpu.holder() {
            self.held_time.add(holder, passed);
        }
        let keeps_others_waiting = self.shares.payer().is_some_and(|payer| self.members.another_tenant_waits(payer));
        if self.gpu.is_paid_for() && keeps_others_waiting {
            self.shares.charge(passed);
        }
    }

    /// Returns what has to be done now.
    fn decide(&mut self, now: Instant) -> Vec<Action> {
        match self.gpu.due(self.is_contended(), now) {
            Due::Grant => {
                if self.losses.take_suspicion(now) {
                    self.shares.nobody_pays();
                    return vec![self.probe()];
                }
                self.grant(now)
            }
            Due::AskBack(holder) => {
                if self.would_be_next(holder) {
                    self.gpu.renew_quantum(now);
                    return Vec::new();
                }
                self.gpu.ask_back(now);
                vec![Action::Tell(holder, ArbiterMessage::Revoked { epoch: self.gpu.epoch() })]
            }
            Due::Kill(holder) => {
                self.gpu.start_reaping(now);
                vec![Action::Kill(holder)]
            }
            Due::Probe => vec![self.probe()],
            Due::Nothing => Vec::new(),
        }
    }

    fn probe(&mut self) -> Action {
        self.gpu.start_probing();
        Action::Probe
    }

    /// Grants the free GPU to the member that is next, if any waits that may get it.
    fn grant(&mut self, now: Instant) -> Vec<Action> {
        let may_get_it = self.members.waiting().filter(|waiting| !self.barring.is_barred(waiting.tenant, now));
        let next = may_get_it.min_by_key(|waiting| (self.shares.virtual_ns(waiting.tenant), waiting.arrival));
        let Some(next) = next else {
            self.shares.forget_absent();
            self.barring.forget_old(now);
            return Vec::new();
        };
        let id = next.id;
        self.shares.granted(next.tenant);
        self.members.granted(id);
        self.gpu.grant(id, now);
        vec![self.granted(id)]
    }

    /// The message that tells the holder of its grant.
    fn granted(&self, holder: MemberId) -> Action {
        let contended = self.members.others_wait(holder);
        Action::Tell(holder, ArbiterMessage::Granted { epoch: self.gpu.epoch(), contended })
    }

    /// Makes a member wait for the GPU.
    fn start_waiting(&mut self, id: MemberId) {
        let Some(tenant) = self.members.tenant(id) else { return };
        let was_active = self.members.tenant_waits(tenant) || self.holder() == Some(tenant);
        if !was_active {
            self.shares.catch_up(tenant);
        }
        self.members.start_waiting(id);
    }

    /// Whether the GPU is held and others wait for it.
    fn is_contended(&self) -> bool {
        self.gpu.holder().is_some_and(|holder| self.members.others_wait(holder))
    }

    /// Whether a holder would be granted the GPU again if it gave it back now. If so, it is not asked back.
    fn would_be_next(&self, holder: MemberId) -> bool {
        let Some(tenant) = self.members.tenant(holder) else { return false };
        let others = self.members.waiting().filter(|waiting| waiting.id != holder);
        let least = others.map(|waiting| self.shares.virtual_ns(waiting.tenant)).min();
        least.is_none_or(|least| self.shares.virtual_ns(tenant) < least)
    }
}
