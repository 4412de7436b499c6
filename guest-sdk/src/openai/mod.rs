//! OpenAI's API, for functions that serve models: requests that name what is wrong with them, answers, and the stream of events.
//!
//! Unknown fields are ignored, as its clients expect; a field that is known and not supported is refused by its name, because
//! an answer that leaves it out would be wrong without a word.

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
