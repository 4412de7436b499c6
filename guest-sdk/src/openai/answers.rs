//! Answers: their shapes, and what all of them have: JSON, an id, a time.

use crate::http::Response;
use crate::random;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a request used.
///
/// ```
/// # use gannet_sdk::openai::Usage;
/// assert_eq!(Usage::of(3, 4).total_tokens, 7);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens that were read.
    pub prompt_tokens: usize,
    /// Tokens that were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<usize>,
    /// Both.
    pub total_tokens: usize,
}

impl Usage {
    /// Of so many tokens read and made.
    ///
    /// ```
    /// # use gannet_sdk::openai::Usage;
    /// assert_eq!(Usage::of(3, 4).completion_tokens, Some(4));
    /// ```
    pub fn of(read: usize, made: usize) -> Self {
        Self { prompt_tokens: read, completion_tokens: Some(made), total_tokens: read + made }
    }

    /// Of so many tokens read, where none are made.
    ///
    /// ```
    /// # use gannet_sdk::openai::Usage;
    /// assert_eq!(Usage::of_input(3).total_tokens, 3);
    /// ```
    pub fn of_input(read: usize) -> Self {
        Self { prompt_tokens: read, completion_tokens: None, total_tokens: read }
    }
}

/// A message that was made.
///
/// ```
/// # use gannet_sdk::openai::Message;
/// let message = Message { role: "assistant", content: "Hello!".into(), refusal: None };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// `assistant`.
    pub role: &'static str,
    /// What it says.
    pub content: String,
    /// Never here.
    pub refusal: Option<String>,
}

/// A token that could have come.
///
/// ```
/// # use gannet_sdk::openai::TopLogprob;
/// let top = TopLogprob { token: " a".into(), logprob: -0.5, bytes: b" a".to_vec() };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// The logarithm of its chance.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A token that came, and those that could have.
///
/// ```
/// # use gannet_sdk::openai::{TokenLogprob, TopLogprob};
/// let own = TopLogprob { token: " a".into(), logprob: -0.5, bytes: b" a".to_vec() };
/// let token = TokenLogprob { own: own.clone(), top_logprobs: vec![own] };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct TokenLogprob {
    /// It.
    #[serde(flatten)]
    pub own: TopLogprob,
    /// The likeliest.
    pub top_logprobs: Vec<TopLogprob>,
}

/// The tokens of an answer and their chances.
///
/// ```
/// # use gannet_sdk::openai::ChoiceLogprobs;
/// let none = ChoiceLogprobs { content: Vec::new() };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct ChoiceLogprobs {
    /// One after the other.
    pub content: Vec<TokenLogprob>,
}

/// An answer in a chat.
///
/// ```
/// # use gannet_sdk::openai::{ChatChoice, Message};
/// let message = Message { role: "assistant", content: "Hello!".into(), refusal: None };
/// let choice = ChatChoice { index: 0, message, logprobs: None, finish_reason: "stop" };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct ChatChoice {
    /// 0.
    pub index: u32,
    /// The message.
    pub message: Message,
    /// Chances, if they were asked for.
    pub logprobs: Option<ChoiceLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
}

/// What `POST /v1/chat/completions` answers.
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
    /// Its id.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// When it was made.
    pub created: u64,
    /// By which model.
    pub model: String,
    /// The answer.
    pub choices: Vec<ChatChoice>,
    /// What it used.
    pub usage: Usage,
}

/// A text that was made.
///
/// ```
/// # use gannet_sdk::openai::Choice;
/// let choice = Choice { text: " there was".into(), index: 0, logprobs: None, finish_reason: Some("length") };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    /// The text.
    pub text: String,
    /// 0.
    pub index: u32,
    /// Chances, if they were asked for.
    pub logprobs: Option<serde_json::Value>,
    /// `stop` or `length`; none in the middle of a stream.
    pub finish_reason: Option<&'static str>,
}

/// What `POST /v1/completions` answers, whole or in a stream.
///
/// ```
/// # use gannet_sdk::openai::Completion;
/// let answer = Completion {
///     id: "cmpl-1".into(), object: "text_completion", created: 0, model: "chat".into(), choices: Vec::new(), usage: None,
/// };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Completion {
    /// Its id.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// When it was made.
    pub created: u64,
    /// By which model.
    pub model: String,
    /// The text.
    pub choices: Vec<Choice>,
    /// What it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// An embedding: numbers, or their bytes in base64.
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
    /// The embedding of the text at an index.
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

/// What `POST /v1/embeddings` answers.
///
/// ```
/// # use gannet_sdk::openai::{EmbeddingList, Usage};
/// let answer = EmbeddingList { object: "list", data: Vec::new(), model: "embed".into(), usage: Usage::of_input(0) };
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct EmbeddingList {
    /// `list`.
    pub object: &'static str,
    /// One for each text.
    pub data: Vec<Embedding>,
    /// By which model.
    pub model: String,
    /// What it used.
    pub usage: Usage,
}

/// What `GET /v1/models` answers.
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
    /// Of one model.
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

/// An answer of JSON.
///
/// ```
/// # use gannet_sdk::openai;
/// assert_eq!(openai::json(&[1, 2]).status(), 200);
/// ```
pub fn json<T: Serialize>(value: &T) -> Response {
    Response::bytes("application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// Seconds since 1970, as answers tell when they were made.
///
/// ```
/// assert!(gannet_sdk::openai::now() > 1_700_000_000);
/// ```
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// An id for an answer.
///
/// ```
/// let id = gannet_sdk::openai::id("chatcmpl");
/// assert!(id.starts_with("chatcmpl-") && id.len() == 33);
/// ```
pub fn id(kind: &str) -> String {
    let mut random = random::generator();
    format!("{kind}-{:016x}{:08x}", random.u64(..), random.u32(..))
}
