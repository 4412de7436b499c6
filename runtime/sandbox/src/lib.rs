//! What runs in Gannet's children. The only crate with wasmtime, and the only one that opens a GPU.
//!
//! Each child is this same binary under a hidden verb ([`gannet_process::child::Role`]). It knows nothing of the store, the registry,
//! keys or other tenants: what it may use comes over its control socket.

pub mod engine;
mod arbiter_link;
pub mod worker;
pub mod build;
pub mod probe;
