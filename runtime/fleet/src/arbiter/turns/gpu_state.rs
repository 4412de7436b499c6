//! The state of one GPU: who holds it, and whether it can be trusted.
//!
//! ```text
//!                grant                 quantum over, others are due         release
//!   Free ──────────────────▶ Held ──────────────────────────────▶ Held, asked ──────▶ Free
//!     ▲                       │ its process ended                   │ grace over: kill
//!     │                       │                                     ▼
//!     │                       │                                  Reaping
//!     │      passed           ▼            its process ended        │
//!     └──────────────────  Probing  ◀───────────────────────────────┘
//!                           │    ▲
//!                    failed ▼    │ later
//!                          Cordoned
//! ```
//!
//! A free GPU is also probed when lost devices make it suspect.
//!
//! In: the transitions, and the time. Out: what is due ([`Due`]) and when ([`GpuState::deadline`]). Whom the GPU is
//! granted to, and whether a holder whose quantum is over is asked back, is decided by the caller.
//!
//! Invariant: after a holder's process ended or was killed, the GPU is free again only when a probe has passed.

use super::members::MemberId;
use gannet_gpu_protocol::lease::Epoch;
use std::time::{Duration, Instant};

/// A killed process that has not ended after this hangs where no signal reaches it.
const REAPING_MAX: Duration = Duration::from_secs(5);

/// The times by which a GPU is shared.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a member may hold the GPU while others wait.
    pub quantum: Duration,
    /// How long a member may take to give the GPU back when it is asked to.
    pub grace: Duration,
    /// How long a GPU is not granted after a failed probe. Each further failure in a row doubles it, up to 64 times.
    pub cordon: Duration,
}

/// Whether a GPU can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It can be used.
    Ok,
    /// It will be usable if a probe passes. The process that held it has died or is being killed.
    Probing,
    /// It failed a probe and is not granted for a while, or a process that cannot be killed holds it.
    Cordoned,
}

/// What has to be done about a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Grant it to the member that is next.
    Grant,
    /// Ask this holder to give it back.
    AskBack(MemberId),
    /// Kill this holder.
    Kill(MemberId),
    /// Probe it.
    Probe,
    /// Wait.
    Nothing,
}

/// One GPU.
#[derive(Debug)]
pub(super) struct GpuState {
    timing: Timing,
    phase: Phase,
    /// The number of the latest grant.
    epoch: Epoch,
    /// How many probes failed in a row.
    failed_probes: u32,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Free,
    Held {
        by: MemberId,
        /// When its present quantum began.
        quantum_start: Instant,
        asked_back: Option<Instant>,
    },
    /// The holder was killed, and its process has not ended yet.
    Reaping {
        member: MemberId,
        since: Instant,
    },
    Probing,
    Cordoned {
        until: Instant,
    },
}

impl GpuState {
    /// A free GPU.
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, phase: Phase::Free, epoch: 0, failed_probes: 0 }
    }

    /// The number of the latest grant; 0 before the first.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The member that holds it.
    pub(super) fn holder(&self) -> Option<MemberId> {
        let Phase::Held { by, .. } = self.phase else { return None };
        Some(by)
    }

    /// Whether it can be granted.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.phase, Phase::Free)
    }

    /// Whether the latest holder's tenant pays for the time that passes, because it holds the GPU or left it unusable.
    /// Nobody pays for a cordoned GPU, because the GPU itself failed.
    pub(super) fn is_paid_for(&self) -> bool {
        !matches!(self.phase, Phase::Free | Phase::Cordoned { .. })
    }

    /// Whether it can be used.
    pub(super) fn health(&self, now: Instant) -> Health {
        match self.phase {
            Phase::Reaping { since, .. } if now.saturating_duration_since(since) > REAPING_MAX => Health::Cordoned,
            Phase::Free | Phase::Held { .. } => Health::Ok,
            Phase::Reaping { .. } | Phase::Probing => Health::Probing,
            Phase::Cordoned { .. } => Health::Cordoned,
        }
    }

    /// When something becomes due on a GPU that is not free; `None` if only an event changes it. `contended` says
    /// whether others wait for it.
    pub(super) fn deadline(&self, contended: bool) -> Option<Instant> {
        match self.phase {
            Phase::Held { asked_back: Some(asked), .. } => Some(asked + self.timing.grace),
            Phase::Held { quantum_start, .. } if contended => Some(quantum_start + self.timing.quantum),
            Phase::Cordoned { until } => Some(until),
            Phase::Held { .. } | Phase::Free | Phase::Reaping { .. } | Phase::Probing => None,
        }
    }

    /// What is due now. `contended` says whether others wait for a GPU that is held.
    pub(super) fn due(&self, contended: bool, now: Instant) -> Due {
        if self.is_free() {
            return Due::Grant;
        }
        if self.deadline(contended).is_none_or(|deadline| now < deadline) {
            return Due::Nothing;
        }
        match self.phase {
            Phase::Held { by, asked_back: None, .. } => Due::AskBack(by),
            Phase::Held { by, asked_back: Some(_), .. } => Due::Kill(by),
            Phase::Cordoned { .. } => Due::Probe,
            Phase::Free | Phase::Reaping { .. } | Phase::Probing => Due::Nothing,
        }
    }

    /// Grants it to a member, under a new epoch.
    pub(super) fn grant(&mut self, to: MemberId, now: Instant) {
        self.epoch += 1;
        self.phase = Phase::Held { by: to, quantum_start: now, asked_back: None };
    }

    /// Frees it after the holder has given it back.
    pub(super) fn release(&mut self) {
        self.phase = Phase::Free;
    }

    /// Starts another quantum of the holder.
    pub(super) fn renew_quantum(&mut self, now: Instant) {
        if let Phase::Held { quantum_start, .. } = &mut self.phase {
            *quantum_start = now;
        }
    }

    /// Notes that the holder was asked to give it back.
    pub(super) fn ask_back(&mut self, now: Instant) {
        if let Phase::Held { asked_back, .. } = &mut self.phase {
            *asked_back = Some(now);
        }
    }

    /// Notes that the holder was killed.
    pub(super) fn start_reaping(&mut self, now: Instant) {
        if let Phase::Held { by, .. } = self.phase {
            self.phase = Phase::Reaping { member: by, since: now };
        }
    }

    /// Notes that it is being probed. It is granted again only after the probe passes.
    pub(super) fn start_probing(&mut self) {
        self.phase = Phase::Probing;
    }

    /// Notes that a process has ended. Returns whether it had the GPU, which then has to be probed.
    pub(super) fn process_ended(&mut self, id: MemberId) -> bool {
        let had_it = match self.phase {
            Phase::Held { by, .. } => by == id,
            Phase::Reaping { member, .. } => member == id,
            Phase::Free | Phase::Probing | Phase::Cordoned { .. } => false,
        };
        if had_it {
            self.start_probing();
        }
        had_it
    }

    /// Notes the result of a probe. Returns false, and does nothing, if the GPU was not being probed.
    pub(super) fn probed(&mut self, passed: bool, now: Instant) -> bool {
        if !matches!(self.phase, Phase::Probing) {
            return false;
        }
        if passed {
            self.failed_probes = 0;
            self.phase = Phase::Free;
        } else {
            let rest = self.timing.cordon.saturating_mul(1 << self.failed_probes.min(6));
            self.failed_probes = self.failed_probes.saturating_add(1);
            self.phase = Phase::Cordoned { until: now + rest };
        }
        true
    }
}
