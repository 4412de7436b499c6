//! Background jobs: a client submits an input, the server runs the function with it once a worker has room, and keeps
//! the result for a while.
//!
//! ```text
//!  submit ─▶ IN_QUEUE ─▶ IN_PROGRESS ─▶ COMPLETED | FAILED | TIMED_OUT | CANCELLED ─▶ removed when its time is over
//!    │          ▲             │
//!  synced       └── retry ◀───┘  a late attempt cannot change the record: it expects an older revision
//! ```
//!
//! A job is accepted when its record is durable. Nothing here serves HTTP or starts processes: [`runner::Runner`] runs
//! an attempt, and the front door implements it.

// Pure: they take the time as an argument, hold no lock and await nothing.
pub mod job;
pub mod outcome;
pub mod parts;
pub mod queue;
pub mod batch;
pub mod schedule;
pub mod keys;
pub mod view;
pub mod delivery;
pub mod hook;

// The shell around them.
pub mod runner;
pub mod service;
