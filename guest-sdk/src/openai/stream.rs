//! Server-sent events, in the form of OpenAI's streams.

use super::answers::{ChoiceLogprobs, Usage};
use super::refusal::Refusal;
use crate::error::Result;
use crate::http::BodyWriter;
use serde::Serialize;

/// Writes events to a streamed body.
///
/// ```
/// # use gannet_sdk::{http::Response, openai::Events};
/// let response = Response::stream("text/event-stream", |body| {
///     let mut events = Events::new(body);
///     events.data(&serde_json::json!({ "text": "Hello!" }))?;
///     events.done()
/// });
/// ```
#[derive(Debug)]
pub struct Events<'a>(&'a mut BodyWriter);

impl<'a> Events<'a> {
    /// A writer of events to `body`.
    ///
    /// ```
    /// # use gannet_sdk::{http::BodyWriter, openai::Events};
    /// fn end(body: &mut BodyWriter) -> gannet_sdk::Result<()> {
    ///     Events::new(body).done()
    /// }
    /// ```
    pub fn new(body: &'a mut BodyWriter) -> Self {
        Self(body)
    }

    /// Writes an event with `value` as JSON. An error means, as a rule, that the client has left.
    ///
    /// ```
    /// # use gannet_sdk::openai::Events;
    /// fn tell(events: &mut Events, text: &str) -> gannet_sdk::Result<()> {
    ///     events.data(&serde_json::json!({ "text": text }))
    /// }
    /// ```
    pub fn data<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let mut event = b"data: ".to_vec();
        event.extend(serde_json::to_vec(value)?);
        event.extend(b"\n\n");
        self.0.write(&event)
    }

    /// Writes an event with an error that happened after the stream began.
    ///
    /// ```
    /// # use gannet_sdk::openai::{Events, Refusal};
    /// fn fail(events: &mut Events, refusal: &Refusal) -> gannet_sdk::Result<()> {
    ///     events.refusal(refusal)
    /// }
    /// ```
    pub fn refusal(&mut self, refusal: &Refusal) -> Result<()> {
        self.data(&refusal.body())
    }

    /// Writes the last event, `[DONE]`.
    ///
    /// ```
    /// # use gannet_sdk::openai::Events;
    /// fn end(mut events: Events) -> gannet_sdk::Result<()> {
    ///     events.done()
    /// }
    /// ```
    pub fn done(&mut self) -> Result<()> {
        self.0.write(b"data: [DONE]\n\n")
    }
}

/// An event of a streamed chat. [`begin`](Self::begin) makes the first one, from which the others are made.
///
/// ```
/// # use gannet_sdk::openai::ChatChunk;
/// let chunk = ChatChunk::begin("chatcmpl-1", 0, "chat");
/// let json = serde_json::to_value(&chunk).unwrap();
/// assert_eq!(json["choices"][0]["delta"]["role"], "assistant");
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct ChatChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Debug, Clone, Serialize)]
struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<ChoiceLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl ChatChunk {
    /// The first event, with the role `assistant`. `created` is in seconds since 1970.
    ///
    /// ```
    /// # use gannet_sdk::openai::ChatChunk;
    /// let first = ChatChunk::begin("chatcmpl-1", 0, "chat");
    /// ```
    pub fn begin(id: &str, created: u64, model: &str) -> Self {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        let choices = vec![ChunkChoice { index: 0, delta, logprobs: None, finish_reason: None }];
        let (id, model) = (id.to_owned(), model.to_owned());
        Self { id, object: "chat.completion.chunk", created, model, choices, usage: None }
    }

    fn of(&self, delta: Delta, logprobs: Option<ChoiceLogprobs>, finish_reason: Option<&'static str>) -> Self {
        Self { choices: vec![ChunkChoice { index: 0, delta, logprobs, finish_reason }], ..self.clone() }
    }

    /// An event with a piece of the text.
    ///
    /// ```
    /// # use gannet_sdk::openai::ChatChunk;
    /// let text = ChatChunk::begin("chatcmpl-1", 0, "chat").text("Hello!", None);
    /// ```
    pub fn text(&self, content: &str, logprobs: Option<ChoiceLogprobs>) -> Self {
        self.of(Delta { role: None, content: Some(content.to_owned()) }, logprobs, None)
    }

    /// The last event of the answer. `finish_reason` is `stop` or `length`.
    ///
    /// ```
    /// # use gannet_sdk::openai::ChatChunk;
    /// let last = ChatChunk::begin("chatcmpl-1", 0, "chat").end("stop");
    /// ```
    pub fn end(&self, finish_reason: &'static str) -> Self {
        self.of(Delta::default(), None, Some(finish_reason))
    }

    /// The event after the last one of the answer, with the usage.
    ///
    /// ```
    /// # use gannet_sdk::openai::{ChatChunk, Usage};
    /// let usage = ChatChunk::begin("chatcmpl-1", 0, "chat").usage(Usage::of(3, 4));
    /// ```
    pub fn usage(&self, usage: Usage) -> Self {
        Self { choices: Vec::new(), usage: Some(usage), ..self.clone() }
    }
}
