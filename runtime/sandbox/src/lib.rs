//! What runs in Gannet's children. The only crate with wasmtime, and the only one that opens a GPU.
//!
//! Each child is this same binary under a hidden verb ([`gannet_process::child::Role`]). It knows nothing of the store, the
//! registry, keys or other tenants: what it may use comes over its control socket.
//!
//! The modules stand in the order of their use: the GPUs are probed, an upload is built, a worker serves its requests.

pub mod probe;
pub mod build;
pub mod worker;
mod guest;
pub mod engine;
mod arbiter_link;
