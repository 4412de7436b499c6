//! The GPU side of Gannet: devices, kernels, memory and execution.
//!
//! It knows nothing of HTTP, tenants or the store, and can be used alone: see
//! `examples/double.rs`. A process opens one [`Device`] for one tenant; each request gets a
//! [`Session`] on it, with limits of its own. The modules below are in the order in which a
//! request uses them. [`wit`] adds the WIT resources, one file each.
//!
//! Invariants:
//!
//! - At all times at least as many bytes are charged as are allocated ([`memory`]).
//! - All submits, maps, unmaps and polls happen on the device's one GPU thread (`executor/thread`).
//! - Modules do not import each other in circles, except `mod.rs` and the files of its own folder.

// Finding and opening GPUs.
pub mod adapter;
pub mod device;
mod host_memory;
// What belongs to a request: limits, charges, memory, assets.
pub mod session;
pub mod usage;
pub mod memory;
pub mod buffer;
pub mod asset;
// From WGSL to a kernel.
mod compiler;
pub mod check;
pub mod harden;
pub mod kernel;
// From commands to work on the GPU, and its results.
pub mod batch;
pub mod grid;
pub mod submission;
mod executor;
mod arbiter_link;

pub mod error;
pub mod probe;
#[cfg(feature = "wit")]
pub mod wit;

pub use adapter::discover;
pub use arbiter_link::ArbiterLink;
pub use asset::{Asset, AssetCatalog, AssetFile, AssetPin, AssetView, ResidentTotals};
pub use batch::{Batch, Binding, BindingSource};
pub use buffer::Buffer;
pub use compiler::compilation::KernelCompilation;
pub use device::{Device, DeviceOptions};
pub use error::Error;
pub use executor::DeviceCounters;
pub use gannet_gpu_protocol::Gpu;
pub use kernel::{Kernel, KernelCatalog, LOOP_WORK};
pub use session::{Session, SessionLimits};
pub use submission::{EncodedBatch, Receipt, Submission};
