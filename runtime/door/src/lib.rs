//! The front door. Modules stand in the order in which a request meets them; `front/path.rs` shows the whole way in one function.

// The path of a request.
pub mod front;
pub mod auth;
pub mod access;
pub mod route;
pub mod openai;
pub mod admit;
pub mod respond;

// Beside the path.
pub mod control;
pub mod serve;
