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
        Some(Value::Array(parts)) if !parts.is_empty() => {
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
        _ => Err(Refusal::invalid(param, format!("{param} is neither a text nor parts of one"))),
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
        let asks = |name: &str| {
            item.get(name)
                .is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()))
        };
        if let Some(name) = ["tool_calls", "function_call", "audio"].into_iter().find(|name| asks(name)) {
            return Err(Refusal::unsupported(&format!("messages[{index}].{name}"), "this model reads texts"));
        }
        let content = content(&format!("messages[{index}].content"), item.get("content"))?;
        Ok(Turn { role: role.to_owned(), content })
    };
    items.iter().enumerate().map(turn).collect()
}

/// Whether the answer is streamed, and whether the stream ends with what was used.
fn stream(fields: &Fields) -> Result<(bool, bool), Refusal> {
    let stream = fields.flag("stream")?;
    let Some(options) = fields.object("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        return Err(Refusal::invalid("stream_options", "stream_options is there, and stream is not true"));
    }
    Ok((stream, options.flag("include_usage")?))
}

fn model(fields: &Fields) -> Result<String, Refusal> {
    Ok(fields.text("model")?.unwrap_or_default().to_owned())
}

fn tokens_of(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|item| item.as_u64().filter(|id| *id < ID_MAX).and_then(|id| u32::try_from(id).ok())).collect()
}

/// What both kinds of completion refuse.
fn refuse(fields: &Fields) -> Result<(), Refusal> {
    for name in ["n", "best_of"] {
        if let Some(count) = fields.integer(name, 1..=128)?.filter(|count| *count > 1) {
            let told = format!("{name} is {count}; this model gives one answer");
            return Err(Refusal::invalid(name, told).named("unsupported_value"));
        }
    }
    fields.refuse(&["logit_bias"], "tokens cannot be made likelier")
}

impl Refusal {
    fn named(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }
}

const TOKENS_MAX: i64 = 1 << 20;

fn count(asked: Option<i64>) -> Option<u32> {
    asked.and_then(|count| u32::try_from(count).ok())
}

/// What asks for something else than a text.
fn refuse_other_answers(fields: &Fields) -> Result<(), Refusal> {
    fields.refuse(&["tools", "functions"], "this model calls none")?;
    for name in ["tool_choice", "function_call"] {
        if fields.get(name).is_some_and(|choice| !matches!(choice.as_str(), Some("none" | "auto"))) {
            return Err(Refusal::unsupported(name, "this model calls no tools"));
        }
    }
    if fields.get("modalities").is_some_and(|asked| *asked != serde_json::json!(["text"])) {
        return Err(Refusal::unsupported("modalities", "this model makes text"));
    }
    if let Some(name) =
        ["audio", "prediction", "web_search_options"].into_iter().find(|name| fields.get(name).is_some())
    {
        return Err(Refusal::unsupported(name, "this model makes text, out of what the messages say"));
    }
    match fields.object("response_format")? {
        Some(format) if format.text("type")? != Some("text") => {
            Err(Refusal::unsupported("response_format", "this model answers in text: its type may be \"text\""))
        }
        _ => Ok(()),
    }
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
        refuse_other_answers(&fields)?;
        let top = fields.integer("top_logprobs", 0..=20)?.and_then(|top| usize::try_from(top).ok());
        let logprobs = fields.flag("logprobs")?.then_some(top.unwrap_or(0));
        if top.is_some() && logprobs.is_none() {
            return Err(Refusal::invalid("top_logprobs", "top_logprobs is there, and logprobs is not true"));
        }
        let newer = fields.integer("max_completion_tokens", 1..=TOKENS_MAX)?;
        let older = fields.integer("max_tokens", 1..=TOKENS_MAX)?;
        let (stream, include_usage) = stream(&fields)?;
        Ok(Self {
            model: model(&fields)?,
            messages: messages(&fields)?,
            sampling: Sampling::read(&fields)?,
            max_tokens: count(newer.or(older)),
            stop: fields.texts("stop", STOPS_MAX)?,
            stream,
            include_usage,
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
        if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(Refusal::unsupported("suffix", "an answer is made from its beginning to its end"));
        }
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
        let (stream, include_usage) = stream(&fields)?;
        Ok(Self {
            model: model(&fields)?,
            prompt,
            sampling: Sampling::read(&fields)?,
            max_tokens: count(fields.integer("max_tokens", 0..=TOKENS_MAX)?).unwrap_or(16),
            stop: fields.texts("stop", STOPS_MAX)?,
            stream,
            include_usage,
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
        let dimensions = count(fields.integer("dimensions", 1..=1 << 16)?);
        Ok(Self { model: model(&fields)?, input, base64, dimensions })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The body of a chat with one more field, or with another one in its place.
    fn with(name: &str, value: Value) -> Vec<u8> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
        body[name] = value;
        serde_json::to_vec(&body).unwrap()
    }

    #[test]
    fn what_a_chat_cannot_do_is_refused_by_its_name() {
        let messages = |message: Value| json!([message]);
        for (name, value, param) in [
            ("n", json!(2), "n"),
            ("best_of", json!(2), "best_of"),
            ("best_of", json!(0), "best_of"),
            ("logit_bias", json!({"5": 1}), "logit_bias"),
            ("tools", json!([{"type": "function"}]), "tools"),
            ("tool_choice", json!("required"), "tool_choice"),
            ("tool_choice", json!({"type": "function"}), "tool_choice"),
            ("function_call", json!({"name": "f"}), "function_call"),
            ("modalities", json!(["text", "audio"]), "modalities"),
            ("audio", json!({"voice": "alloy"}), "audio"),
            ("prediction", json!({}), "prediction"),
            ("web_search_options", json!({}), "web_search_options"),
            ("response_format", json!("json_object"), "response_format"),
            ("response_format", json!({}), "response_format"),
            ("response_format", json!({"type": "json_object"}), "response_format"),
            ("top_logprobs", json!(3), "top_logprobs"),
            ("stream_options", json!({"include_usage": true}), "stream_options"),
            ("stream_options", json!(true), "stream_options"),
            ("max_tokens", json!(0), "max_tokens"),
            ("max_completion_tokens", json!(0), "max_completion_tokens"),
            ("max_tokens", json!("many"), "max_tokens"),
            ("temperature", json!(2.5), "temperature"),
            ("top_p", json!(-0.1), "top_p"),
            ("presence_penalty", json!(3), "presence_penalty"),
            ("frequency_penalty", json!("x"), "frequency_penalty"),
            ("seed", json!(0.5), "seed"),
            ("stop", json!(["a", "b", "c", "d", "e"]), "stop"),
            ("stream", json!("yes"), "stream"),
            ("messages", json!([]), "messages"),
            ("messages", messages(json!({"role": "tool", "content": "x"})), "messages[0].role"),
            ("messages", messages(json!({"role": "user"})), "messages[0].content"),
            ("messages", messages(json!({"role": "user", "content": null})), "messages[0].content"),
            ("messages", messages(json!({"role": "user", "content": [{"type": "image_url"}]})), "messages[0].content"),
            (
                "messages",
                messages(json!({"role": "assistant", "content": "x", "tool_calls": [{}]})),
                "messages[0].tool_calls",
            ),
        ] {
            let refusal = ChatRequest::parse(&with(name, value.clone())).unwrap_err();
            assert_eq!(refusal.param(), Some(param), "{name}: {value}");
            assert!(refusal.to_string().starts_with(param), "{refusal}");
        }
        let mut body: Value = serde_json::from_slice(&with("stream", json!(true))).unwrap();
        body["stream_options"] = json!({"include_usage": "yes"});
        let refusal = ChatRequest::parse(&serde_json::to_vec(&body).unwrap()).unwrap_err();
        assert_eq!(refusal.param(), Some("stream_options.include_usage"));
    }

    #[test]
    fn what_asks_for_nothing_is_accepted() {
        for (name, value) in [
            ("n", json!(1)),
            ("best_of", json!(1)),
            ("logit_bias", json!({})),
            ("tools", json!([])),
            ("tool_choice", json!("auto")),
            ("modalities", json!(["text"])),
            ("audio", json!(null)),
            ("response_format", json!({"type": "text"})),
            ("stop", json!(null)),
            ("messages", json!([{"role": "assistant", "content": "x", "tool_calls": []}])),
            ("messages", json!([{"role": "user", "content": ""}])),
            ("something_new", json!(5)),
        ] {
            assert!(ChatRequest::parse(&with(name, value.clone())).is_ok(), "{name}: {value}");
        }
    }

    #[test]
    fn a_completion_may_have_no_tokens_and_no_suffix() {
        let parse = |body: Value| CompletionRequest::parse(&serde_json::to_vec(&body).unwrap());
        assert_eq!(parse(json!({"prompt": "a", "max_tokens": 0})).unwrap().max_tokens, 0);
        let refusal = parse(json!({"prompt": "a", "suffix": "b"})).unwrap_err();
        assert_eq!(refusal.param(), Some("suffix"));
        assert!(parse(json!({"prompt": []})).is_err());
        assert!(parse(json!({"prompt": "a", "stream_options": {}})).is_err());
    }
}
