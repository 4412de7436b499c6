//! The handle of a process that shares a GPU. The owner of the process has it: the pool for workers, the build service
//! for builders.
//!
//! In: reported GPU time to be billed, and the end of the process. Out: how much of that time is billed, and whether
//! the process was killed because it did not release the GPU.
//!
//! Invariant: the owner calls [`Membership::left`] once, when the process has ended and was reaped. Until then the
//! process may hold the GPU.

use super::event::{ArbiterEvent, EventSender};
use super::turns::MemberId;
use super::turns_by_gpu::TurnsByGpu;
use crate::gpus::SlotId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The handle of a process that shares a GPU.
#[derive(Debug)]
pub struct Membership {
    pub(super) id: MemberId,
    pub(super) gpu: SlotId,
    pub(super) turns: Arc<TurnsByGpu>,
    pub(super) events: EventSender,
    pub(super) overstayed: Arc<AtomicBool>,
}

impl Membership {
    /// Returns how much of `reported` GPU time the process can have used: never more than it held the GPU. The returned
    /// time counts as billed.
    pub fn bill(&self, reported: Duration) -> Duration {
        self.turns.lock(self.gpu).map_or(reported, |mut turns| turns.bill(self.id, reported, Instant::now()))
    }

    /// How long the process has held the GPU without that time being billed to a request.
    pub fn unbilled(&self) -> Duration {
        self.turns.lock(self.gpu).map_or(Duration::ZERO, |mut turns| turns.unbilled(self.id, Instant::now()))
    }

    /// Reports that the process has ended and was reaped. `device_lost` says whether it ended because its device was
    /// lost.
    pub fn left(&self, device_lost: bool) {
        self.events.send(ArbiterEvent::Left { id: self.id, gpu: self.gpu, device_lost });
    }

    /// Whether the process was killed because it did not release the GPU.
    pub fn overstayed(&self) -> bool {
        self.overstayed.load(Ordering::Relaxed)
    }
}
