//! The description of a GPU. A process that has loaded the GPU drivers makes it for the front door, which has not.

use serde::{Deserialize, Serialize};

/// A GPU as found on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Position in the driver's list. A worker opens the GPU by this index.
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
    /// Bytes of its own memory; 0 if the driver does not report it. For a software driver, the machine's memory.
    pub memory_bytes: u64,
    /// Measured number of bytes that an opened device takes before anything is allocated on it; 0 if not measured.
    pub context_bytes: u64,
}
