//! Hooks: how others make jobs without a key. A tenant makes a hook for a source, such as a repository's host, and gives
//! the source the hook's URL. What is posted there is the input of a job.
//!
//! ```text
//!  POST /hooks/{tenant}/{function}/{name}/{token}
//!   ─▶ token: known, not replaced for a day, not expired ─▶ signature, if the hook has one ─▶ same delivery as before?
//!        └ anything else: 404, the same for all                └ 401                            ├ yes: the job it made
//!                                                                                               └ no: a new job
//! ```
//!
//! The URL is a capability: its token is 256 random bits, of which only a hash is stored. Here is what decides, without
//! a lock and without a wait; [`crate::service`] has the rest.

pub mod headers;
pub mod signed;
pub mod record;
pub mod event;
