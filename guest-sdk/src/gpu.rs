//! Compute on the GPU: buffers, kernels, batches.
//!
//! Operations that the host refuses return an [`Error`], which names the value and the limit. In a handler, `?`
//! turns it into a response with the status [`Error::status`].

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

/// Returns the limits and features of the GPU that this function uses. They stay the same for the life of the instance.
///
/// ```no_run
/// assert!(gannet_sdk::gpu::device().limits.workgroup_invocations_max >= 128);
/// ```
pub fn device() -> Device {
    info::get()
}
