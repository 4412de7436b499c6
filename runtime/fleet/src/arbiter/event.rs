//! Events that the rest of the server sends to the arbiter's thread. Messages of members use another channel, which is
//! bounded.
//!
//! Invariant: an event is never lost while the thread runs, because a lost one would leave a GPU unusable.

use super::member_process::MemberLink;
use super::turns::MemberId;
use crate::gpus::SlotId;
use gannet_base::names::TenantName;
use gannet_process::spawn::Process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;

/// Something that happened to a process or a probe.
pub(super) enum ArbiterEvent {
    /// A process shares a GPU from now on.
    Joined {
        id: MemberId,
        gpu: SlotId,
        link: MemberLink,
        process: Process,
        tenant: TenantName,
        /// To be set when the process is killed because it did not release the GPU.
        overstayed: Arc<AtomicBool>,
    },
    /// A member's process has ended and was reaped.
    Left {
        id: MemberId,
        gpu: SlotId,
        /// Whether it ended because its device was lost.
        device_lost: bool,
    },
    /// A probe has ended.
    Probed { gpu: SlotId, passed: bool },
}

/// Sends events to the arbiter's thread.
#[derive(Debug, Clone)]
pub(super) struct EventSender {
    /// Unbounded, because an event must not be lost. There are at most two events for each process, and processes are
    /// bounded.
    sender: mpsc::UnboundedSender<ArbiterEvent>,
}

impl EventSender {
    /// Returns a sender, and the receiver for the arbiter's thread.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<ArbiterEvent>) {
        let (sender, events) = mpsc::unbounded_channel();
        (Self { sender }, events)
    }

    /// Sends an event; logs an error if the thread has ended.
    pub(super) fn send(&self, event: ArbiterEvent) {
        if self.sender.send(event).is_err() {
            tracing::error!("the arbiter's thread has ended");
        }
    }
}
