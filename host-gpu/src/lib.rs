//! The GPU side of Gannet: devices, kernels, memory and execution.
//!
//! It knows nothing of HTTP, tenants or the store, and can be used alone: see
//! `examples/double.rs`. A process opens one [`Device`] for one tenant; each request gets a
//! [`Session`] on it, with limits of its own. The modules below stand in the order in which a
//! request meets them; [`wit`] puts the WIT resources on top, one file each.
//!
//! Invariant: bytes charged are at all times at least the bytes allocated ([`memory`]), and all
//! submits, maps, unmaps and polls happen on the device's one GPU thread ([`thread`]).

pub mod adapter;
mod adapter_memory;
pub mod device;
pub mod session;
pub mod memory;
pub mod buffer;
pub mod asset;
mod tokens;
pub mod check;
pub mod harden;
pub mod kernel;
mod trial;
mod pipelines;
pub mod binding;
pub mod batch;
mod flag;
mod pace;
mod slice;
mod encode;
mod record;
pub mod in_flight;
mod job;
mod staging;
mod host_memory;
pub mod lease;
mod thread;
pub mod submission;
pub mod error;
pub mod probe;
#[cfg(feature = "wit")]
pub mod wit;

pub use adapter::{Gpu, discover};
pub use asset::{Asset, AssetCatalog, AssetFile, View};
pub use batch::Batch;
pub use binding::{Binding, Source};
pub use buffer::Buffer;
pub use device::Device;
pub use error::Error;
pub use kernel::{Catalog, Kernel};
pub use session::{Session, SessionLimits};
pub use submission::{Receipt, Submission};
