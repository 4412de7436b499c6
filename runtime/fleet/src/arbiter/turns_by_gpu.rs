//! The GPUs that the arbiter shares, each with its [`Turns`].
//!
//! In: the GPUs, when the arbiter starts. Out: the [`Turns`] of one GPU, locked. The arbiter's thread changes them, and
//! owners of memberships and the control API read them, so nobody may keep the lock while it waits for anything.
//!
//! Invariant: the set of GPUs never changes, and a caller has at most one of them locked at a time.

use super::turns::{Timing, Turns};
use crate::gpus::SlotId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A GPU that the arbiter shares, with its times.
#[derive(Debug, Clone, Copy)]
pub struct SharedGpu {
    /// The GPU.
    pub gpu: SlotId,
    /// The times by which it is shared.
    pub timing: Timing,
}

/// The [`Turns`] of each GPU.
#[derive(Debug)]
pub(super) struct TurnsByGpu {
    turns: BTreeMap<SlotId, Mutex<Turns>>,
}

impl TurnsByGpu {
    /// Returns the turns of GPUs that nobody holds yet.
    pub(super) fn new(gpus: &[SharedGpu], now: Instant) -> Self {
        let turns = gpus.iter().map(|shared| (shared.gpu, Mutex::new(Turns::new(shared.timing, now)))).collect();
        Self { turns }
    }

    /// All GPUs.
    pub(super) fn gpus(&self) -> impl Iterator<Item = SlotId> {
        self.turns.keys().copied()
    }

    /// Locks the turns of one GPU; `None` if it is not shared.
    pub(super) fn lock(&self, gpu: SlotId) -> Option<MutexGuard<'_, Turns>> {
        self.turns.get(&gpu).map(locked)
    }

    /// Locks the turns of each GPU, one after the other.
    pub(super) fn lock_each(&self) -> impl Iterator<Item = MutexGuard<'_, Turns>> {
        self.turns.values().map(locked)
    }
}

fn locked(turns: &Mutex<Turns>) -> MutexGuard<'_, Turns> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}
