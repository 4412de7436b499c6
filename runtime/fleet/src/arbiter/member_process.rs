//! A process that shares a GPU, as the arbiter's thread handles it.
//!
//! In: the parent's ends of what the process was given ([`MemberLink`]). Out: the messages that the process sends. The
//! thread sends messages to it, and kills it when it keeps the GPU too long. A process that sends anything but a valid
//! message, or does not read its messages, is killed.
//!
//! Invariant: a message concerns the membership whose socket it arrived on, whatever is in it.

use super::turns::MemberId;
use crate::gpus::SlotId;
use gannet_base::names::TenantName;
use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use gannet_gpu_protocol::running_kernels::longest_running;
use gannet_process::channel::Channel;
use gannet_process::spawn::Process;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// The arbiter's link to a process with a device: the parent's ends of what the process was given.
#[derive(Debug)]
pub struct MemberLink {
    /// The lease socket.
    pub socket: OwnedFd,
    /// The file in which the process notes the kernels that it runs.
    pub notes: File,
}

/// A report that a process was killed because it did not release the GPU.
#[derive(Debug)]
pub struct Overstayed {
    /// The process's tenant.
    pub tenant: TenantName,
    /// Hashes of the sources of the kernels that it ran.
    pub kernels: Vec<[u8; 32]>,
}

/// A message of a member.
#[derive(Debug)]
pub(super) struct MemberMessage {
    /// The GPU that the member shares.
    pub(super) gpu: SlotId,
    /// The member that sent it.
    pub(super) id: MemberId,
    pub(super) message: HolderMessage,
}

/// A process that shares a GPU.
pub(super) struct MemberProcess {
    channel: Arc<Channel>,
    notes: File,
    process: Process,
    tenant: TenantName,
    /// Set when the process is killed because it did not release the GPU. The owner of the membership reads it.
    overstayed: Arc<AtomicBool>,
}

impl MemberProcess {
    /// Opens the link to a process. It must be called on the thread that uses it.
    pub(super) fn open(
        link: MemberLink,
        process: Process,
        tenant: TenantName,
        overstayed: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let channel = Arc::new(Channel::new(link.socket)?);
        Ok(Self { channel, notes: link.notes, process, tenant, overstayed })
    }

    /// Forwards the messages of the process until its socket ends or sends an invalid message. Then kills the process.
    pub(super) fn forward(
        &self,
        gpu: SlotId,
        id: MemberId,
        messages: mpsc::Sender<MemberMessage>,
    ) -> impl Future<Output = ()> + 'static {
        let (channel, process) = (Arc::clone(&self.channel), self.process.clone());
        async move {
            loop {
                match channel.receive::<HolderMessage>().await {
                    Ok((message, _)) => {
                        if messages.send(MemberMessage { gpu, id, message }).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(process = process.id(), %error, "a lease socket ended");
                        return process.kill();
                    }
                }
            }
        }
    }

    /// Sends a message to the process. Kills the process if it does not read its messages.
    pub(super) fn send(&self, message: ArbiterMessage) {
        if let Err(error) = self.channel.try_send(&message) {
            tracing::debug!(process = self.process.id(), %error, "a lease message could not be sent");
            self.process.kill();
        }
    }

    /// Kills the process because it did not release the GPU, and reports which kernels it ran.
    pub(super) fn kill_for_overstaying(&self, gpu: SlotId) -> Overstayed {
        let kernels = longest_running(&self.notes);
        tracing::warn!(gpu, process = self.process.id(), tenant = %self.tenant, kernels = kernels.len(),
            "a process kept the gpu and is killed");
        self.overstayed.store(true, Ordering::Relaxed);
        self.process.kill();
        Overstayed { tenant: self.tenant.clone(), kernels }
    }
}
