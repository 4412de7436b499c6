//! The builder's child: checks one upload, compiles it, tries its kernels, and ends.

pub mod child;
pub mod component;
pub mod kernels;
pub mod snapshot;
