//! The description of a GPU, as a process that has loaded the drivers makes it for one that has not.

use serde::{Deserialize, Serialize};

/// A GPU as found on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Position in the driver's list; what a worker opens.
    pub index: u32,
    /// The driver's name for it.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// `software` for a driver that computes on the CPU, otherwise `gpu`.
    pub class: String,
    /// Whether it computes on the CPU.
    pub software: bool,
    /// Whether it writes timestamps; without them GPU time is wall time.
    pub timestamps: bool,
    /// Bytes of its own memory; 0 if the driver does not tell. For a software driver, the machine's.
    pub memory_bytes: u64,
    /// Bytes that a device takes before anything is allocated on it, as measured; 0 if it was not.
    pub context_bytes: u64,
}
