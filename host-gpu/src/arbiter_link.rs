//! The GPU thread's connection to an arbiter. The protocol and the state of the lease are in `gannet-gpu-protocol`.

use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A connection to an arbiter.
pub struct ArbiterLink {
    /// Messages from the arbiter.
    pub messages: mpsc::Receiver<ArbiterMessage>,
    /// Sends a message to the arbiter. Must not block.
    pub send: Box<dyn FnMut(HolderMessage) + Send>,
    /// Called when the device is lost, possibly more than once.
    pub on_loss: Arc<dyn Fn() + Send + Sync>,
    /// File in which the running kernels are noted ([`gannet_gpu_protocol::running_kernels`]).
    pub notes: Option<std::fs::File>,
}

impl std::fmt::Debug for ArbiterLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArbiterLink")
    }
}
