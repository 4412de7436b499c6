//! Webhooks: when a job with one has ended, its receiver is told, signed as Standard Webhooks says.
//!
//! ```text
//!  the job's last commit also writes w/{job} ─▶ due ─▶ POST, 30 s ─▶ 2xx: w/ removed
//!                                                ▲        ├ anything else: again later, for three days
//!                                                └────────┤
//!                                                         └ 410, a private address, three days: d/{job}, a dead letter
//! ```
//!
//! Here is what decides, without a lock and without a wait; the task is in [`crate::service`]. While a delivery is
//! pending or a dead letter, the job's record is kept: the message is made of it.

pub mod record;
pub mod sender;
pub mod plan;
pub mod signature;
pub(crate) mod index;
