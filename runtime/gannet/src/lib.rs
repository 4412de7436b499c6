//! The command line of Gannet.

pub mod cli;
