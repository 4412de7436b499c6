//! Requests, parsed from their bodies: one file for each path, and one for the fields that they share.

mod shared_fields;
mod chat;
mod completion;
mod embedding;

pub use chat::{ChatRequest, Turn};
pub use completion::{CompletionRequest, Prompt};
pub use embedding::{EmbeddingRequest, Input};
pub use shared_fields::Sampling;
