//! `POST /v1/completions`: a text, and how to continue it.

use super::shared_fields::{STOPS_MAX, Sampling, TOKENS_MAX, count, model, refuse_more_answers, streaming, tokens_of};
use crate::openai::fields::Fields;
use crate::openai::refusal::Refusal;
use serde_json::Value;

/// The text that a completion continues.
///
/// ```
/// # use gannet_sdk::openai::Prompt;
/// let prompts = [Prompt::Text("Once upon a time".into()), Prompt::Tokens(vec![1, 2])];
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// The ids of its tokens.
    Tokens(Vec<u32>),
}

/// The parsed body of `POST /v1/completions`.
///
/// ```
/// # use gannet_sdk::openai::{CompletionRequest, Prompt};
/// let request = CompletionRequest::parse(br#"{"model": "chat", "prompt": "Once"}"#)?;
/// assert_eq!(request.prompt, Prompt::Text("Once".into()));
/// # Ok::<(), gannet_sdk::openai::Refusal>(())
/// ```
#[derive(Debug, Clone)]
pub struct CompletionRequest {
    /// The model's name in the request; empty if there is none.
    pub model: String,
    /// The text to continue.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens of the answer; 16 if the client sets no limit.
    pub max_tokens: u32,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with the usage.
    pub include_usage: bool,
    /// Whether the answer begins with the prompt.
    pub echo: bool,
    /// Number of alternatives to report with each token's log probability; `None` to report no log probabilities.
    pub logprobs: Option<usize>,
}

impl CompletionRequest {
    /// Parses a body. A refusal names the field that is invalid or not supported.
    ///
    /// ```
    /// # use gannet_sdk::openai::CompletionRequest;
    /// assert!(CompletionRequest::parse(br#"{"prompt": ["a", "b"]}"#).is_err(), "one at a time");
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields::parse(body)?;
        refuse_more_answers(&fields)?;
        if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(Refusal::unsupported("suffix", "this model only continues the prompt"));
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
        let (stream, include_usage) = streaming(&fields)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

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
