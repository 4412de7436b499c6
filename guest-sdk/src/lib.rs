//! Write Gannet functions in Rust.
//!
//! A function is an HTTP handler that may compute on a GPU:
//!
//! ```no_run
//! use gannet_sdk::{Result, gpu, http::{Request, Response}};
//!
//! const DOUBLE: &str = "
//!     @group(0) @binding(0) var<storage, read_write> values: array<u32>;
//!     @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
//!         if id.x < arrayLength(&values) { values[id.x] *= 2u; }
//!     }";
//!
//! #[gannet_sdk::handler]
//! fn double(request: Request) -> Result<Response> {
//!     let numbers = gpu::Buffer::from_slice(&[1u32, 2, 3])?;
//!     gpu::Kernel::compile(DOUBLE, "main")?.dispatch((&numbers,), gpu::grid_1d(3, 64))?;
//!     Ok(Response::text(format!("{:?}", numbers.read()?)))
//! }
//! ```
//!
//! Build it as a `cdylib` for `wasm32-wasip2` and deploy it with `gannet deploy`. Kernels in files of their
//! own are declared with [`gpu::kernel!`], so that the server checks and compiles them at deploy.

// Each module imports only those above it.
#[doc(hidden)]
pub mod bindings;
pub mod gpu;
pub mod error;
mod init;
#[cfg(feature = "openai")]
mod random;
pub mod http;
pub mod outbound;
pub mod keyvalue;
pub mod job;
pub mod asset;
#[cfg(feature = "nn")]
pub mod nn;
#[cfg(feature = "openai")]
pub mod openai;
#[cfg(feature = "openai")]
pub mod embedding;
#[cfg(feature = "llm")]
pub mod llm;

pub use error::{Error, Result};
pub use gannet_sdk_macros::{handler, init};
pub use http::IntoResponse;

/// Used by code that the macros generate. Not part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings;
    pub use crate::bindings::export_handler as export;
    pub use crate::bindings::exports::wasi::http::incoming_handler::Guest;
    pub use crate::bindings::snapshot as snapshot_bindings;
    pub use crate::bindings::snapshot::Guest as InitGuest;
    pub use crate::bindings::snapshot::export_snapshot as export_init;
    pub use crate::bindings::wasi::http::types::{IncomingRequest, ResponseOutparam};
    pub use crate::http::run;
    pub use crate::init::initialized;
}
