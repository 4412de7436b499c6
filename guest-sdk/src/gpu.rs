//! Compute on the GPU: buffers, kernels, batches.
//!
//! What the host refuses is an [`Error`], which names the value and the limit. With `?` it becomes a
//! response with a fitting status.

mod error;
mod grid;
mod binding;
mod buffer;
mod kernel;
mod batch;
mod dispatch;

use crate::bindings::gannet::gpu::info;

#[doc(inline)]
pub use crate::__kernel as kernel;
pub use batch::{Batch, Clock, Command, Read, Receipt, Results, Submission, Update};
pub use binding::{At, Bind, Bindings, Source, Uniform, uniform};
pub use buffer::{Buffer, Slice};
pub use error::{Error, Result};
pub use grid::{Grid, grid_1d, grid_2d};
pub use info::{Device, Features, Limits};
pub use kernel::{__record, __record_length, Declared, Kernel};

/// What the device can do.
///
/// ```no_run
/// assert!(gannet_sdk::gpu::device().limits.workgroup_invocations_max >= 128);
/// ```
pub fn device() -> Device {
    info::get()
}
