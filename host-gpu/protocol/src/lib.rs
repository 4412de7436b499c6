//! What the front door and a process with a GPU device both know. They are different processes: what is here goes from
//! one to the other, or both must come to the same result.
//!
//! Nothing here knows wgpu, naga or wasmtime, because the front door depends on this crate and never loads a GPU driver.
//! What opens the device and runs kernels is `gannet-host-gpu`.

// What a GPU is. A child lists them for the front door.
mod gpu;
// Whose turn it is on a shared GPU: the messages, and the holder's side, which is pure.
pub mod lease;
// What runs on it: the holder writes, the arbiter reads.
pub mod running_kernels;
// How both name a kernel.
mod source_hash;

pub use gpu::Gpu;
pub use source_hash::source_hash;
