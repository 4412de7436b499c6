//! `POST /v1/chat/completions`: the chat so far, and how to continue it.

use super::shared_fields::{STOPS_MAX, Sampling, TOKENS_MAX, count, model, refuse_more_answers, streaming};
use crate::openai::fields::Fields;
use crate::openai::refusal::Refusal;
use serde_json::Value;

/// A message of a chat.
///
/// ```
/// # use gannet_sdk::openai::Turn;
/// let turn = Turn { role: "user".into(), content: "Hello!".into() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Turn {
    /// Who speaks: `system`, `user` or `assistant`. The role `developer` of a request becomes `system`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// The parsed body of `POST /v1/chat/completions`.
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
    /// The model's name in the request; empty if there is none.
    pub model: String,
    /// The chat so far; not empty.
    pub messages: Vec<Turn>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens of the answer; `None` if the client sets no limit.
    pub max_tokens: Option<u32>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with the usage.
    pub include_usage: bool,
    /// Number of alternatives to report with each token's log probability; `None` to report no log probabilities.
    pub logprobs: Option<usize>,
}

/// Returns the text of a message's `content`: a text, or a list of parts that are all text.
fn content(param: &str, value: Option<&Value>) -> Result<String, Refusal> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let mut all = String::new();
            for part in parts {
                let text = part.get("text").and_then(Value::as_str);
                match (part.get("type").and_then(Value::as_str), text) {
                    (Some("text"), Some(text)) => all.push_str(text),
                    _ => return Err(Refusal::unsupported(param, "a message has a part that is not text")),
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

/// Refuses fields that ask for an answer other than text.
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
        return Err(Refusal::unsupported(name, "this model makes text, from the messages alone"));
    }
    match fields.object("response_format")? {
        Some(format) if format.text("type")? != Some("text") => {
            Err(Refusal::unsupported("response_format", "this model answers in text: its type may be \"text\""))
        }
        _ => Ok(()),
    }
}

impl ChatRequest {
    /// Parses a body. A refusal names the field that is invalid or not supported.
    ///
    /// ```
    /// # use gannet_sdk::openai::ChatRequest;
    /// assert!(ChatRequest::parse(b"{}").is_err());
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields::parse(body)?;
        refuse_more_answers(&fields)?;
        refuse_other_answers(&fields)?;
        let top = fields.integer("top_logprobs", 0..=20)?.and_then(|top| usize::try_from(top).ok());
        let logprobs = fields.flag("logprobs")?.then_some(top.unwrap_or(0));
        if top.is_some() && logprobs.is_none() {
            return Err(Refusal::invalid("top_logprobs", "top_logprobs is set, and logprobs is not true"));
        }
        let newer = fields.integer("max_completion_tokens", 1..=TOKENS_MAX)?;
        let older = fields.integer("max_tokens", 1..=TOKENS_MAX)?;
        let (stream, include_usage) = streaming(&fields)?;
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
}
