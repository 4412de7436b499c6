//! Shares the GPUs among the processes that hold devices.

#[cfg(test)]
mod simulation;
pub mod turns;
