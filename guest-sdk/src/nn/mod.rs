//! Neural networks on the GPU: weights in assets, and a small set of operations on them.
//!
//! A model opens its weights as [`Matrix`] and [`View`](crate::asset::View), and records its operations into a [`Pass`]
//! once. Each token is then one submission with a few bytes changed. All activations are rows of `f32`.
//!
//! ```no_run
//! use gannet_sdk::{asset::Asset, gpu::{self, Buffer}, nn::{self, DType, Linear, Nn, Tensor}};
//!
//! // The kernels that this function uses, so that the server checks and compiles them at deploy.
//! nn::declare!(f32);
//!
//! fn project(row: &[f32]) -> gpu::Result<Vec<f32>> {
//!     let asset = Asset::open("weights")?;
//!     let weights = Tensor { dtype: DType::F32, shape: vec![64, 384], range: 0..98_304 }.matrix(&asset)?;
//!     let (x, y) = (Buffer::from_slice(row)?, Buffer::zeroed(64)?);
//!     let nn = Nn::new();
//!     let mut pass = nn.pass();
//!     pass.linear(&weights, &x, &y, Linear::of(1))?;
//!     let read = pass.batch().read(&y)?;
//!     Ok(pass.batch().submit()?.wait()?.take(&read))
//! }
//! ```

mod tensor;
mod gguf;
mod safetensors;
#[doc(hidden)]
pub mod wgsl;
mod declare;
mod kernels;
mod pass;
mod linear;
mod attention;

#[doc(inline)]
pub use crate::__nn_declare as declare;
pub use attention::{Attention, Rope};
pub use gguf::{Gguf, Value};
pub use kernels::Nn;
pub use linear::Linear;
pub use pass::Pass;
pub use safetensors::SafeTensors;
pub use tensor::{DType, Matrix, Tensor};
