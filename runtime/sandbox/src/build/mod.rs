//! The builder: checks one upload, compiles it, tries its kernels, and exits. The modules are in the order of its
//! steps.

pub mod child;
mod progress;
pub mod component;
mod complexity;
pub mod kernels;
mod snapshot;
mod compile;
mod imports;
mod kernel_trial;
mod driver_cache;
