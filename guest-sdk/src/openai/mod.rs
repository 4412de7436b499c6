//! OpenAI's API, for functions that serve models: parsed requests, responses, refusals that name the field at fault,
//! and streams of events.
//!
//! Unknown fields are ignored, as OpenAI's clients expect. A known field that is not supported is refused by name,
//! because an answer that silently ignores it would be wrong.

mod answers;
mod refusal;
mod fields;
mod requests;
mod stream;

pub use answers::{
    ChatChoice, ChatCompletion, Choice, ChoiceLogprobs, Completion, Embedding, EmbeddingList, Message, ModelList,
    TokenLogprob, TopLogprob, Usage, id, json, now,
};
pub use fields::Fields;
pub use refusal::Refusal;
pub use requests::{ChatRequest, CompletionRequest, EmbeddingRequest, Input, Prompt, Sampling, Turn};
pub use stream::{ChatChunk, Events};
