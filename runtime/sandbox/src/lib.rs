//! What runs in Gannet's children. The only crate with wasmtime, and the only one that opens a GPU.
//!
//! Each child is this same binary under a hidden subcommand ([`gannet_process::child::Role`]). It has no access to the
//! store, the registry, keys or other tenants. Everything it may use is inherited as a descriptor or comes over its
//! control socket.
//!
//! The modules are in the order of their use: the GPUs are probed, an upload is built, a worker serves requests.

pub mod kernel_check;
pub mod probe;
pub mod build;
pub mod worker;
mod guest;
pub mod engine;
mod arbiter_link;
