//! The paths: `GET /v1/models`, `POST /v1/chat/completions`, `POST /v1/completions`.
//!
//! ```text
//!  request ─▶ tokens ─▶ fits the context? ─▶ model.read(prompt) ─▶ choose ─▶ piece ─▶ stop text? ─▶ answer, or an event each
//!                                                 ▲────────── read(token) ◀────────┘
//! ```

use super::generate::{Generation, token_logprob};
use super::model::{Llm, Model};
use super::tokenizer::Decoder;
use crate::gpu;
use crate::http::{Request, Response};
use crate::openai::{
    ChatChoice, ChatChunk, ChatCompletion, ChatRequest, Choice, ChoiceLogprobs, Completion, CompletionRequest, Events,
    Message, ModelList, Prompt, Refusal, TokenLogprob, TopLogprob, Usage, id, json, now,
};

/// Handles a request of an OpenAI client. `open` opens the model; it is called only if the request is valid. Errors
/// before the response begins are responses in OpenAI's shape ([`Refusal`]); later ones are an event in the stream.
///
/// ```
/// # use gannet_sdk::{gpu, http::{Request, Response}, llm::{self, Llm, Model}};
/// fn handle(request: &Request, llm: &'static Llm, model: Box<dyn Model>) -> Response {
///     llm::serve(request, llm, || Ok(model))
/// }
/// ```
pub fn serve(request: &Request, llm: &'static Llm, open: impl FnOnce() -> gpu::Result<Box<dyn Model>>) -> Response {
    let answered = match (request.method(), request.path()) {
        ("GET", "/v1/models") => Ok(json(&ModelList::of(&llm.name, "gannet"))),
        ("POST", "/v1/chat/completions") => chat(request.body(), llm, open),
        ("POST", "/v1/completions") => completion(request.body(), llm, open),
        (method, path) => Err(Refusal::unknown_path(method, path)),
    };
    answered.unwrap_or_else(Refusal::into_response)
}

fn model_name(asked: String, llm: &Llm) -> String {
    if asked.is_empty() { llm.name.clone() } else { asked }
}

fn chat(
    body: &[u8],
    llm: &'static Llm,
    open: impl FnOnce() -> gpu::Result<Box<dyn Model>>,
) -> Result<Response, Refusal> {
    let request = ChatRequest::parse(body)?;
    let template = llm.template.as_ref();
    let template = template.ok_or_else(|| Refusal::unsupported("messages", "this model has no chat template"))?;
    let prompt = llm.encode(&template.render(&request.messages)?)?;
    let mut model = open()?;
    let ChatRequest { sampling, stop, logprobs, .. } = request;
    let generation = Generation { prompt, most: 0, sampling, stop, logprobs };
    let generation = generation.fit(request.max_tokens, &*model, "messages")?;
    let (id, created, model_name) = (id("chatcmpl"), now(), model_name(request.model, llm));
    if request.stream {
        let include_usage = request.include_usage;
        // Read before the response begins: until then `timeout_ms` applies, and an error has a status.
        let logits = generation.read(&mut *model)?;
        return Ok(Response::stream("text/event-stream", move |body| {
            let mut events = Events::new(body);
            let chunk = ChatChunk::begin(&id, created, &model_name);
            events.data(&chunk)?;
            let finish = generation.run(llm, &mut *model, logits, &mut |piece| {
                let logprobs = piece.logprob.map(|token| ChoiceLogprobs { content: vec![token] });
                if piece.text.is_empty() && logprobs.is_none() {
                    return Ok(());
                }
                events.data(&chunk.text(&piece.text, logprobs)).map_err(Refusal::from)
            });
            match finish {
                Ok(finish) => {
                    events.data(&chunk.end(finish.reason))?;
                    if include_usage {
                        events.data(&chunk.usage(Usage::of(generation.prompt.len(), finish.made)))?;
                    }
                    events.done()
                }
                Err(refusal) => events.refusal(&refusal),
            }
        }));
    }
    let (mut content, mut chances) = (String::new(), Vec::new());
    let logits = generation.read(&mut *model)?;
    let finish = generation.run(llm, &mut *model, logits, &mut |piece| {
        content.push_str(&piece.text);
        chances.extend(piece.logprob);
        Ok(())
    })?;
    let logprobs = generation.logprobs.map(|_| ChoiceLogprobs { content: chances });
    let message = Message { role: "assistant", content, refusal: None };
    let choice = ChatChoice { index: 0, message, logprobs, finish_reason: finish.reason };
    let usage = Usage::of(generation.prompt.len(), finish.made);
    let object = "chat.completion";
    Ok(json(&ChatCompletion { id, object, created, model: model_name, choices: vec![choice], usage }))
}

/// Log probabilities in the shape of `/v1/completions`: parallel lists with an item for each token.
#[derive(Default)]
struct CompletionLogprobs {
    tokens: Vec<String>,
    logprobs: Vec<Option<f64>>,
    top: Vec<serde_json::Value>,
    offsets: Vec<usize>,
    at: usize,
}

impl CompletionLogprobs {
    fn push(&mut self, token: &TokenLogprob, known: bool) {
        self.offsets.push(self.at);
        self.at += token.own.token.chars().count();
        self.tokens.push(token.own.token.clone());
        self.logprobs.push(known.then_some(token.own.logprob));
        let top = token.top_logprobs.iter().map(|top| (top.token.clone(), top.logprob.into()));
        self.top.push(if known { serde_json::Value::Object(top.collect()) } else { serde_json::Value::Null });
    }

    fn told(self) -> serde_json::Value {
        serde_json::json!({
            "tokens": self.tokens, "token_logprobs": self.logprobs, "top_logprobs": self.top, "text_offset": self.offsets,
        })
    }
}

fn completion(
    body: &[u8],
    llm: &'static Llm,
    open: impl FnOnce() -> gpu::Result<Box<dyn Model>>,
) -> Result<Response, Refusal> {
    let request = CompletionRequest::parse(body)?;
    let prompt = match &request.prompt {
        Prompt::Text(text) => llm.encode(text)?,
        Prompt::Tokens(tokens) => tokens.clone(),
    };
    let mut model = open()?;
    let CompletionRequest { sampling, stop, logprobs, max_tokens, echo, stream, include_usage, .. } = request;
    let generation = Generation { prompt, most: 0, sampling, stop, logprobs };
    let generation = generation.fit(Some(max_tokens), &*model, "prompt")?;
    let object = "text_completion";
    let whole = Completion {
        id: id("cmpl"),
        object,
        created: now(),
        model: model_name(request.model, llm),
        choices: vec![],
        usage: None,
    };
    let choice = |text: String, logprobs, finish_reason| vec![Choice { text, index: 0, logprobs, finish_reason }];
    if stream {
        if echo {
            return Err(Refusal::unsupported("echo", "not in a stream"));
        }
        let logits = generation.read(&mut *model)?;
        return Ok(Response::stream("text/event-stream", move |body| {
            let mut events = Events::new(body);
            let part = |choices, usage| Completion { choices, usage, ..whole.clone() };
            let finish = generation.run(llm, &mut *model, logits, &mut |piece| {
                if piece.text.is_empty() && piece.logprob.is_none() {
                    return Ok(());
                }
                let mut chances = CompletionLogprobs::default();
                let told = piece.logprob.map(|token| {
                    chances.push(&token, true);
                    chances.told()
                });
                events.data(&part(choice(piece.text, told, None), None)).map_err(Refusal::from)
            });
            match finish {
                Ok(finish) => {
                    events.data(&part(choice(String::new(), None, Some(finish.reason)), None))?;
                    if include_usage {
                        events.data(&part(vec![], Some(Usage::of(generation.prompt.len(), finish.made))))?;
                    }
                    events.done()
                }
                Err(refusal) => events.refusal(&refusal),
            }
        }));
    }
    let mut chances = CompletionLogprobs::default();
    let (mut text, read) =
        if echo { echoed(&generation, llm, &mut *model, &mut chances)? } else { (String::new(), None) };
    let logits = read.map_or_else(|| generation.read(&mut *model), Ok)?;
    let finish = generation.run(llm, &mut *model, logits, &mut |piece| {
        text.push_str(&piece.text);
        if let Some(token) = &piece.logprob {
            chances.push(token, true);
        }
        Ok(())
    })?;
    let told = generation.logprobs.map(|_| chances.told());
    let usage = Some(Usage::of(generation.prompt.len(), finish.made));
    Ok(json(&Completion { choices: choice(text, told, Some(finish.reason)), usage, ..whole }))
}

/// Returns the text of the prompt. If log probabilities were requested, it also reads the prompt, adds those of its
/// tokens to `chances_of` (null for the first token, which follows nothing), and returns the logits of the token that
/// follows.
fn echoed(
    generation: &Generation,
    llm: &Llm,
    model: &mut dyn Model,
    chances_of: &mut CompletionLogprobs,
) -> Result<(String, Option<Vec<f32>>), Refusal> {
    let mut behind = None;
    if let Some(top) = generation.logprobs {
        let mut next = generation.prompt.iter().copied();
        if let Some(first) = next.next() {
            let first = TopLogprob {
                token: String::from_utf8_lossy(llm.tokenizer.bytes(first)).into_owned(),
                logprob: 0.0,
                bytes: vec![],
            };
            chances_of.push(&TokenLogprob { own: first, top_logprobs: vec![] }, false);
        }
        generation.begin(model)?;
        model.read_each(&generation.prompt, &mut |logits| match next.next() {
            Some(token) => chances_of.push(&token_logprob(llm, logits, token, top), true),
            None => behind = Some(logits.to_vec()),
        })?;
    }
    let mut decoder = Decoder::default();
    let text: String = generation.prompt.iter().map(|token| decoder.push(llm.tokenizer.bytes(*token))).collect();
    Ok((text + &decoder.end(), behind))
}
