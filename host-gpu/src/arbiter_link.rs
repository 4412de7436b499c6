//! The GPU thread's connection to an arbiter. The lease that it negotiates is in `gannet-gpu-protocol`.

use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A connection to an arbiter.
pub struct ArbiterLink {
    /// What the arbiter says.
    pub messages: mpsc::Receiver<ArbiterMessage>,
    /// Sends something to it; must not wait.
    pub send: Box<dyn FnMut(HolderMessage) + Send>,
    /// What to do when the device is lost.
    pub on_loss: Arc<dyn Fn() + Send + Sync>,
    /// Where to note what runs ([`gannet_gpu_protocol::running_kernels`]).
    pub notes: Option<std::fs::File>,
}

impl std::fmt::Debug for ArbiterLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArbiterLink")
    }
}
