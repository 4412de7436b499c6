//! The front door. The modules are in the order in which a request passes them. `front/path.rs` has the whole path in
//! one function.

// The path of a request.
pub mod front;
pub mod auth;
pub mod access;
pub mod route;
pub mod openai;
pub mod jobs;
pub mod admit;
pub mod respond;
pub mod sibling;

// Not steps of the path.
mod platform;
mod waiting_bytes;
mod whole_body;
mod audit;
pub mod control;
pub mod serve;
