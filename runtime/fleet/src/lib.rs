//! The front door's side of workers and of the GPUs that they share.
//!
//! In: an admitted request ([`admitted`]). Out: the worker's response, with its cost on the request's tab. Nothing here
//! runs tenant code or loads a GPU driver. Children do that, which [`pool`], [`build`] and [`probe`] start.

pub mod calling;
pub mod inbound;
pub mod admitted;
pub mod pool;
pub mod gpus;
pub mod arbiter;
pub mod build;
pub mod probe;
pub mod egress;
pub mod logs;
