//! Workers, and the GPUs that they share, from the front door's side.
//!
//! In: an admitted request ([`admitted`]). Out: the worker's answer, and what it cost on the request's tab. Nothing here runs tenant
//! code or loads a GPU driver: that happens in children, which [`pool`], [`build`] and [`probe`] start.

pub mod inbound;
pub mod admitted;
pub mod pool;
pub mod gpus;
pub mod arbiter;
pub mod build;
pub mod probe;
pub mod egress;
pub mod logs;
