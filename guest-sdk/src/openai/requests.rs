//! Requests: chat, completions, embeddings.

use super::{Fields, Refusal};
use serde_json::Value;

/// Stop strings of a request, as OpenAI has it.
const STOPS_MAX: usize = 4;
/// Texts of one embedding request, as OpenAI has it.
const INPUTS_MAX: usize = 2048;
/// The largest token id that is looked at.
const ID_MAX: u64 = 1 << 32;

/// How tokens are chosen.
///
/// ```
/// # use gannet_sdk::openai::Sampling;
/// let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest.
    pub temperature: f64,
    /// Of the likeliest, so many that their chances add up to this.
    pub top_p: f64,
    /// Taken off a token that has come.
    pub presence_penalty: f64,
    /// The same for each time.
    pub frequency_penalty: f64,
    /// The same seed makes the same choices.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, presence_penalty: 0.0, frequency_penalty: 0.0, seed: None }
    }
}

impl Sampling {
    #[allow(clippy::cast_sign_loss)]
    fn read(fields: &Fields) -> Result<Self, Refusal> {
        let none = Self::default();
        Ok(Self {
            temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(none.temperature),
            top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(none.top_p),
            presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        })
    }
}

/// A message of a chat.
///
/// ```
/// # use gannet_sdk::openai::Turn;
/// let turn = Turn { role: "user".into(), content: "Hello!".into() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Turn {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: String,
    /// What they say.
    pub content: String,
}

/// `POST /v1/chat/completions`.
///
/// ```
/// # use gannet_sdk::openai::ChatRequest;
/// let request = ChatRequest::parse(br#"{"model": "chat", "messages": [{"role": "user", "content": "Hello!"}]}"#)?;
/// assert_eq!(request.messages[0].content, "Hello!");
/// let refused = ChatRequest::parse(br#"{"messages": [{"role": "user", "content": "Hello!"}], "n": 2}"#).unwrap_err();
/// assert!(refused.to_string().starts_with("n is 2"));
/// # Ok::<(), gannet_sdk::openai::Refusal>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// The model, as the client calls it.
    pub model: String,
    /// The chat so far; not empty.
    pub messages: Vec<Turn>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Whether it is streamed.
    pub stream: bool,
    /// Whether the stream ends with what was used.
    pub include_usage: bool,
    /// How many alternatives are told for each token; none: not even its own chance.
    pub logprobs: Option<usize>,
}

/// What a completion goes on from.
///
/// ```
/// # use gannet_sdk::openai::Prompt;
/// let prompts = [Prompt::Text("Once upon a time".into()), Prompt::Tokens(vec![1, 2])];
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Its tokens.
    Tokens(Vec<u32>),
}

/// `POST /v1/completions`.
///
/// ```
/// # use gannet_sdk::openai::{CompletionRequest, Prompt};
/// let request = CompletionRequest::parse(br#"{"model": "chat", "prompt": "Once"}"#)?;
/// assert_eq!(request.prompt, Prompt::Text("Once".into()));
/// # Ok::<(), gannet_sdk::openai::Refusal>(())
/// ```
#[derive(Debug, Clone)]
pub struct CompletionRequest {
    /// The model, as the client calls it.
    pub model: String,
    /// What comes before.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens of the answer.
    pub max_tokens: u32,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Whether it is streamed.
    pub stream: bool,
    /// Whether the stream ends with what was used.
    pub include_usage: bool,
    /// Whether the prompt is a part of the answer.
    pub echo: bool,
    /// How many alternatives are told for each token.
    pub logprobs: Option<usize>,
}

/// What is embedded.
///
/// ```
/// # use gannet_sdk::openai::Input;
/// let inputs = [Input::Text("a bird".into()), Input::Tokens(vec![101, 102])];
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A text.
    Text(String),
    /// Its tokens.
    Tokens(Vec<u32>),
}

/// `POST /v1/embeddings`.
///
/// ```
/// # use gannet_sdk::openai::EmbeddingRequest;
/// let request = EmbeddingRequest::parse(br#"{"model": "embed", "input": ["a", "b"], "encoding_format": "base64"}"#)?;
/// assert_eq!((request.input.len(), request.base64), (2, true));
/// # Ok::<(), gannet_sdk::openai::Refusal>(())
/// ```
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    /// The model, as the client calls it.
    pub model: String,
    /// What is embedded; not empty.
    pub input: Vec<Input>,
    /// Whether numbers come as bytes in base64, and not as JSON.
    pub base64: bool,
    /// So many numbers, if the client wants fewer than there are.
    pub dimensions: Option<u32>,
}

/// The words of a message: a text, or parts of which all are text.
fn content(param: &str, value: Option<&Value>) -> Result<String, Refusal> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::Array(parts)) => {
            let mut all = String::new();
            for part in parts {
                let text = part.get("text").and_then(Value::as_str);
                match (part.get("type").and_then(Value::as_str), text) {
                    (Some("text"), Some(text)) => all.push_str(text),
                    _ => return Err(Refusal::unsupported(param, "a part of a message that is no text")),
                }
            }
            Ok(all)
        }
        Some(_) => Err(Refusal::invalid(param, format!("{param} is neither a text nor parts of one"))),
    }
}

fn messages(fields: &Fields) -> Result<Vec<Turn>, Refusal> {
    let Some(Value::Array(items)) = fields.get("messages") else {
        return Err(Refusal::invalid("messages", "messages is missing, or no list"));
    };
    if items.is_empty() {
        return Err(Refusal::invalid("messages", "messages is empty"));
    }
    let turn = |(index, item): (usize, &Value)| {
        let role = item.get("role").and_then(Value::as_str).unwrap_or_default();
        let role = match role {
            "system" | "user" | "assistant" => role,
            "developer" => "system",
            other => {
                let param = format!("messages[{index}].role");
                let other: String = other.chars().take(40).collect();
                let told = format!("{param} is {other:?}; it may be system, developer, user or assistant");
                return Err(Refusal::invalid(&param, told));
            }
        };
        let content = content(&format!("messages[{index}].content"), item.get("content"))?;
        Ok(Turn { role: role.to_owned(), content })
    };
    items.iter().enumerate().map(turn).collect()
}

fn include_usage(fields: &Fields) -> bool {
    let options = fields.get("stream_options").and_then(|options| options.get("include_usage"));
    options.and_then(Value::as_bool).unwrap_or(false)
}

fn model(fields: &Fields) -> Result<String, Refusal> {
    Ok(fields.text("model")?.unwrap_or_default().to_owned())
}

fn tokens_of(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|item| item.as_u64().filter(|id| *id < ID_MAX).and_then(|id| u32::try_from(id).ok())).collect()
}

/// What both kinds of completion refuse.
fn refuse(fields: &Fields) -> Result<(), Refusal> {
    if let Some(n) = fields.integer("n", 1..=128)?.filter(|n| *n > 1) {
        let told = format!("n is {n}; this model gives one answer");
        return Err(Refusal::invalid("n", told).named("unsupported_value"));
    }
    fields.refuse(&["logit_bias"], "tokens cannot be made likelier")?;
    fields.refuse(&["best_of", "suffix"], "one answer is made, from its beginning to its end").or_else(|refusal| {
        // One is what is done anyway.
        if fields.get("best_of").and_then(Value::as_i64) == Some(1) && fields.get("suffix").is_none() {
            Ok(())
        } else {
            Err(refusal)
        }
    })
}

impl Refusal {
    fn named(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }
}

fn most_tokens(fields: &Fields) -> Result<Option<u32>, Refusal> {
    let newer = fields.integer("max_completion_tokens", 1..=1 << 20)?;
    let older = fields.integer("max_tokens", 0..=1 << 20)?;
    Ok(newer.or(older).and_then(|most| u32::try_from(most).ok()))
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// ```
    /// # use gannet_sdk::openai::ChatRequest;
    /// assert!(ChatRequest::parse(b"{}").is_err());
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields::parse(body)?;
        refuse(&fields)?;
        fields.refuse(&["tools", "functions"], "this model calls none")?;
        fields.refuse(&["audio", "modalities", "web_search_options", "prediction"], "this model makes text").or_else(
            |refusal| match fields.get("modalities") {
                Some(asked) if *asked == serde_json::json!(["text"]) => Ok(()),
                _ => Err(refusal),
            },
        )?;
        let format = fields.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
        if format.is_some_and(|format| format != "text") {
            return Err(Refusal::unsupported("response_format", "this model answers in text"));
        }
        let top = fields.integer("top_logprobs", 0..=20)?.and_then(|top| usize::try_from(top).ok());
        let logprobs = fields.flag("logprobs")?.then_some(top.unwrap_or(0));
        Ok(Self {
            model: model(&fields)?,
            messages: messages(&fields)?,
            sampling: Sampling::read(&fields)?,
            max_tokens: most_tokens(&fields)?.filter(|most| *most > 0),
            stop: fields.texts("stop", STOPS_MAX)?,
            stream: fields.flag("stream")?,
            include_usage: include_usage(&fields),
            logprobs,
        })
    }
}

impl CompletionRequest {
    /// Reads a body.
    ///
    /// ```
    /// # use gannet_sdk::openai::CompletionRequest;
    /// assert!(CompletionRequest::parse(br#"{"prompt": ["a", "b"]}"#).is_err(), "one at a time");
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields::parse(body)?;
        refuse(&fields)?;
        let wrong = || Refusal::invalid("prompt", "prompt is a text, a list of one, or a list of tokens");
        let prompt = match fields.get("prompt") {
            Some(Value::String(text)) => Prompt::Text(text.clone()),
            Some(Value::Array(items)) => match items.as_slice() {
                [Value::String(text)] => Prompt::Text(text.clone()),
                [Value::Array(items)] => Prompt::Tokens(tokens_of(items).ok_or_else(wrong)?),
                items if !items.is_empty() => Prompt::Tokens(tokens_of(items).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        let logprobs = fields.integer("logprobs", 0..=5)?.and_then(|top| usize::try_from(top).ok());
        Ok(Self {
            model: model(&fields)?,
            prompt,
            sampling: Sampling::read(&fields)?,
            max_tokens: most_tokens(&fields)?.unwrap_or(16),
            stop: fields.texts("stop", STOPS_MAX)?,
            stream: fields.flag("stream")?,
            include_usage: include_usage(&fields),
            echo: fields.flag("echo")?,
            logprobs,
        })
    }
}

impl EmbeddingRequest {
    /// Reads a body.
    ///
    /// ```
    /// # use gannet_sdk::openai::{EmbeddingRequest, Input};
    /// let request = EmbeddingRequest::parse(br#"{"input": [[101, 102], [101]]}"#)?;
    /// assert_eq!(request.input[1], Input::Tokens(vec![101]));
    /// # Ok::<(), gannet_sdk::openai::Refusal>(())
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields::parse(body)?;
        let wrong = || Refusal::invalid("input", "input is a text, tokens, or a list of either, and not empty");
        let input = match fields.get("input") {
            Some(Value::String(text)) => vec![Input::Text(text.clone())],
            Some(Value::Array(items)) if items.first().is_some_and(Value::is_number) => {
                vec![Input::Tokens(tokens_of(items).ok_or_else(wrong)?)]
            }
            Some(Value::Array(items)) if items.len() > INPUTS_MAX => {
                let count = items.len();
                return Err(Refusal::invalid("input", format!("input has {count} texts; it may have {INPUTS_MAX}")));
            }
            Some(Value::Array(items)) => {
                let one = |item: &Value| match item {
                    Value::String(text) => Some(Input::Text(text.clone())),
                    Value::Array(items) => tokens_of(items).filter(|ids| !ids.is_empty()).map(Input::Tokens),
                    _ => None,
                };
                items.iter().map(one).collect::<Option<Vec<_>>>().ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
        if input.is_empty() || input.contains(&Input::Text(String::new())) {
            return Err(wrong());
        }
        let base64 = match fields.text("encoding_format")? {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err(Refusal::invalid("encoding_format", "encoding_format may be float or base64")),
        };
        let dimensions = fields.integer("dimensions", 1..=1 << 16)?.and_then(|count| u32::try_from(count).ok());
        Ok(Self { model: model(&fields)?, input, base64, dimensions })
    }
}
