//! Bodies of responses, in the shapes of OpenAI's API, and what they have in common: JSON, an id, a time.

use crate::http::Response;
use crate::random;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// The tokens that a request used.
///
/// ```
/// # use gannet_sdk::openai::Usage;
/// assert_eq!(Usage::of(3, 4).total_tokens, 7);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Number of tokens of the prompt or input.
    pub prompt_tokens: usize,
    /// Number of tokens of the answer; `None` for embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<usize>,
    /// Sum of both.
    pub total_tokens: usize,
}

impl Usage {
    /// The usage of a completion: `read` tokens of the prompt, `made` tokens of the answer.
    ///
    /// ```
    /// # use gannet_sdk::openai::Usage;
    /// assert_eq!(Usage::of(3, 4).completion_tokens, Some(4));
    /// ```
    pub fn of(read: usize, made: usize) -> Self {
        Self { prompt_tokens: read, completion_tokens: Some(made), total_tokens: read + made }
    }

    /// The usage of a request that generates no tokens: `read` tokens of input.
    ///
    /// ```
    /// # use gannet_sdk::openai::Usage;
    /// assert_eq!(Usage::of_input(3).total_tokens, 3);
    /// ```
    pub fn of_input(read: usize) -> Self {
        Self { prompt_tokens: read, completion_tokens: None, total_tokens: read }
    }
}

/// A generated chat message.
///
/// ```
/// # use gannet_sdk::openai::Message;
/// let message = Message { role: "assistant", content: "Hello!".into(), refusal: None };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Always `None`; clients expect the field.
    pub refusal: Option<String>,
}

/// A token and its log probability.
///
/// ```
/// # use gannet_sdk::openai::TopLogprob;
/// let top = TopLogprob { token: " a".into(), logprob: -0.5, bytes: b" a".to_vec() };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct TopLogprob {
    /// The token's text.
    pub token: String,
    /// Natural logarithm of the token's probability.
    pub logprob: f64,
    /// The token's bytes.
    pub bytes: Vec<u8>,
}

/// A generated token with its log probability, and the likeliest tokens at its position.
///
/// ```
/// # use gannet_sdk::openai::{TokenLogprob, TopLogprob};
/// let own = TopLogprob { token: " a".into(), logprob: -0.5, bytes: b" a".to_vec() };
/// let token = TokenLogprob { own: own.clone(), top_logprobs: vec![own] };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct TokenLogprob {
    /// The token that was chosen.
    #[serde(flatten)]
    pub own: TopLogprob,
    /// The likeliest tokens, the likeliest first; as many as the request asked for.
    pub top_logprobs: Vec<TopLogprob>,
}

/// The tokens of an answer with their log probabilities.
///
/// ```
/// # use gannet_sdk::openai::ChoiceLogprobs;
/// let none = ChoiceLogprobs { content: Vec::new() };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct ChoiceLogprobs {
    /// The tokens in their order.
    pub content: Vec<TokenLogprob>,
}

/// An answer in a chat, of which a response has one.
///
/// ```
/// # use gannet_sdk::openai::{ChatChoice, Message};
/// let message = Message { role: "assistant", content: "Hello!".into(), refusal: None };
/// let choice = ChatChoice { index: 0, message, logprobs: None, finish_reason: "stop" };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct ChatChoice {
    /// Always 0.
    pub index: u32,
    /// The message.
    pub message: Message,
    /// Log probabilities, if the request asked for them.
    pub logprobs: Option<ChoiceLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
}

/// The response of `POST /v1/chat/completions`.
///
/// ```
/// # use gannet_sdk::openai::{ChatCompletion, Usage};
/// let answer = ChatCompletion {
///     id: "chatcmpl-1".into(), object: "chat.completion", created: 0, model: "chat".into(), choices: Vec::new(),
///     usage: Usage::of(1, 0),
/// };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct ChatCompletion {
    /// The response's id, as [`id()`] makes it.
    pub id: String,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// When the response was created, in seconds since 1970 ([`now()`]).
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The answer: one choice.
    pub choices: Vec<ChatChoice>,
    /// The tokens that the request used.
    pub usage: Usage,
}

/// A generated text.
///
/// ```
/// # use gannet_sdk::openai::Choice;
/// let choice = Choice { text: " there was".into(), index: 0, logprobs: None, finish_reason: Some("length") };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    /// The text, or a piece of it in a stream.
    pub text: String,
    /// Always 0.
    pub index: u32,
    /// Log probabilities, if the request asked for them.
    pub logprobs: Option<serde_json::Value>,
    /// `stop` or `length`; `None` in all events of a stream but the last.
    pub finish_reason: Option<&'static str>,
}

/// The response of `POST /v1/completions`, or an event of its stream.
///
/// ```
/// # use gannet_sdk::openai::Completion;
/// let answer = Completion {
///     id: "cmpl-1".into(), object: "text_completion", created: 0, model: "chat".into(), choices: Vec::new(), usage: None,
/// };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Completion {
    /// The response's id, as [`id()`] makes it.
    pub id: String,
    /// Always `text_completion`.
    pub object: &'static str,
    /// When the response was created, in seconds since 1970 ([`now()`]).
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The text: one choice. Empty in the event with the usage.
    pub choices: Vec<Choice>,
    /// The tokens that the request used; `None` in the events of a stream without usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// An embedding: its values as numbers, or as the base64 of little-endian `f32`.
///
/// ```
/// # use gannet_sdk::openai::Embedding;
/// let json = serde_json::to_value(Embedding::new(0, &[1.0], true)).unwrap();
/// assert_eq!(json["embedding"], "AACAPw==");
/// assert_eq!(serde_json::to_string(&Embedding::new(0, &[0.1], false)).unwrap(), r#"{"object":"embedding","index":0,"embedding":[0.1]}"#);
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Embedding {
    object: &'static str,
    index: usize,
    embedding: EmbeddingValues,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum EmbeddingValues {
    Plain(Vec<f32>),
    Base64(String),
}

impl Embedding {
    /// The embedding of the input at `index`, as numbers or, if `base64`, as the base64 of little-endian `f32`.
    ///
    /// ```
    /// # use gannet_sdk::openai::Embedding;
    /// let embedding = Embedding::new(0, &[0.6, 0.8], false);
    /// ```
    pub fn new(index: usize, values: &[f32], base64: bool) -> Self {
        use base64::Engine as _;
        let embedding = if base64 {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            EmbeddingValues::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
        } else {
            EmbeddingValues::Plain(values.to_vec())
        };
        Self { object: "embedding", index, embedding }
    }
}

/// The response of `POST /v1/embeddings`.
///
/// ```
/// # use gannet_sdk::openai::{EmbeddingList, Usage};
/// let answer = EmbeddingList { object: "list", data: Vec::new(), model: "embed".into(), usage: Usage::of_input(0) };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct EmbeddingList {
    /// Always `list`.
    pub object: &'static str,
    /// One embedding for each input, in their order.
    pub data: Vec<Embedding>,
    /// The model's name.
    pub model: String,
    /// The tokens that the request used.
    pub usage: Usage,
}

/// The response of `GET /v1/models`, with one model.
///
/// ```
/// # use gannet_sdk::openai::ModelList;
/// let json = serde_json::to_value(ModelList::of("smollm2-135m-instruct", "gannet")).unwrap();
/// assert_eq!(json["data"][0]["object"], "model");
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: [ModelEntry; 1],
}

#[derive(Debug, Clone, Serialize)]
struct ModelEntry {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: String,
}

impl ModelList {
    /// The list of the one model `id`, owned by `owner`.
    ///
    /// ```
    /// # use gannet_sdk::openai::ModelList;
    /// let models = ModelList::of("all-minilm-l6-v2", "gannet");
    /// ```
    pub fn of(id: &str, owner: &str) -> Self {
        let entry = ModelEntry { id: id.to_owned(), object: "model", created: 0, owned_by: owner.to_owned() };
        Self { object: "list", data: [entry] }
    }
}

/// A response with status 200 and the value as JSON.
///
/// ```
/// # use gannet_sdk::openai;
/// assert_eq!(openai::json(&[1, 2]).status(), 200);
/// ```
pub fn json<T: Serialize>(value: &T) -> Response {
    Response::bytes("application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// Seconds since 1970, for `created` in responses.
///
/// ```
/// assert!(gannet_sdk::openai::now() > 1_700_000_000);
/// ```
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A random id for a response: `kind`, a hyphen, and 24 hexadecimal digits.
///
/// ```
/// let id = gannet_sdk::openai::id("chatcmpl");
/// assert!(id.starts_with("chatcmpl-") && id.len() == 33);
/// ```
pub fn id(kind: &str) -> String {
    let mut random = random::generator();
    format!("{kind}-{:016x}{:08x}", random.u64(..), random.u32(..))
}
