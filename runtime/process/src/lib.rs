//! Child processes: how they are started, what connects them to the front door, how they are
//! confined and how they end.
//!
//! A child is this same binary, run with a hidden verb. It starts with an almost empty environment and
//! only the descriptors it is given ([`spawn`]). It confines itself before it loads a driver or a runtime
//! ([`confine`]), communicates in frames of limited length ([`channel`]), and ends when its control
//! socket closes.

pub mod channel;
pub mod hop_socket;
mod cgroup;
pub mod child;
pub mod confine;
pub mod confine_check;
pub mod home;
pub mod spawn;
mod syscalls;
