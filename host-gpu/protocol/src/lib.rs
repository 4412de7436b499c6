//! Shared by the front door and the processes that have a GPU device. The types here travel from one process to the
//! other, and both must compute the functions here with the same result.
//!
//! This crate must not depend on wgpu, naga or wasmtime, because the front door depends on it and never loads a GPU
//! driver. `gannet-host-gpu` opens devices and runs kernels.

// The description of a GPU. A child lists the GPUs for the front door.
mod gpu;
// Exclusive use of a shared GPU: the messages, and the holder's state machine, which is pure.
pub mod lease;
// The kernels that are on the GPU: the holder writes them down, the arbiter reads them.
pub mod running_kernels;
// The name of a kernel that both use.
mod source_hash;

pub use gpu::Gpu;
pub use source_hash::source_hash;
