//! The paths: `GET /v1/models`, `POST /v1/chat/completions`, `POST /v1/completions`.
//!
//! ```text
//!  request ─▶ tokens ─▶ fits the context? ─▶ model.read(prompt) ─▶ choose ─▶ piece ─▶ stop text? ─▶ answer, or an event each
//!                                                 ▲────────── read(token) ◀────────┘
//! ```

use super::{Decoder, Llm, Model, Sampler};
use crate::gpu;
use crate::http::{Request, Response};
use crate::openai::{
    ChatChoice, ChatChunk, ChatCompletion, ChatRequest, Choice, ChoiceLogprobs, Completion, CompletionRequest, Events,
    Message, ModelList, Prompt, Refusal, Sampling, TokenLogprob, TopLogprob, Usage, id, json, now,
};

/// Tokens of an answer whose length the client leaves open, where the context has room for more.
const ANSWER_TOKENS: u32 = 1024;

/// Answers a request of an OpenAI client. `open` brings the model; it is called when a request is sound.
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

/// What is to be made.
struct Order {
    prompt: Vec<u32>,
    most: u32,
    sampling: Sampling,
    stop: Vec<String>,
    logprobs: Option<usize>,
}

/// A piece of an answer.
struct Piece {
    text: String,
    logprob: Option<TokenLogprob>,
}

/// How an answer ended.
struct Ended {
    made: usize,
    reason: &'static str,
}

impl Order {
    /// Checks that prompt and answer fit the model's context.
    fn fit(mut self, asked: Option<u32>, model: &dyn Model, param: &str) -> Result<Self, Refusal> {
        let (context, vocabulary) = (model.context(), model.vocabulary());
        if let Some(unknown) = self.prompt.iter().find(|token| **token >= vocabulary) {
            return Err(Refusal::invalid(param, format!("token {unknown}; this model has {vocabulary}")));
        }
        let length = u32::try_from(self.prompt.len()).unwrap_or(u32::MAX);
        let room = context.checked_sub(length);
        let wanted = asked.unwrap_or(1);
        if length == 0 {
            return Err(Refusal::invalid(param, format!("{param} has no tokens")));
        }
        match room.filter(|room| wanted <= *room) {
            Some(room) => self.most = asked.unwrap_or(room.min(ANSWER_TOKENS)),
            None => return Err(Refusal::too_long(param, self.prompt.len().saturating_add(wanted as usize), context)),
        }
        Ok(self)
    }

    /// Makes room for prompt and answer.
    fn begin(&self, model: &mut dyn Model) -> gpu::Result<()> {
        model.begin(u32::try_from(self.prompt.len()).unwrap_or(u32::MAX).saturating_add(self.most))
    }

    /// Reads the prompt, and answers the logits of what comes next. Nothing is read for an answer without tokens.
    fn read(&self, model: &mut dyn Model) -> Result<Vec<f32>, Refusal> {
        if self.most == 0 {
            return Ok(Vec::new());
        }
        self.begin(model)?;
        Ok(model.read(&self.prompt)?)
    }

    /// Makes the answer, piece by piece, behind the logits of a prompt that was read. An error of `with` ends it: the client
    /// has left.
    fn run(
        &self,
        llm: &Llm,
        model: &mut dyn Model,
        mut logits: Vec<f32>,
        with: &mut dyn FnMut(Piece) -> Result<(), Refusal>,
    ) -> Result<Ended, Refusal> {
        let mut sampler = Sampler::new(self.sampling.clone());
        let mut text = Text::new(&self.stop);
        let mut made = 0;
        while made < self.most {
            let token = sampler.choose(&logits);
            made += 1;
            if llm.ends.contains(&token) {
                with(Piece { text: text.end(), logprob: None })?;
                return Ok(Ended { made: made as usize, reason: "stop" });
            }
            let (piece, stopped) = text.push(llm.tokenizer.bytes(token));
            let logprob = self.logprobs.map(|top| chances(llm, &logits, token, top));
            with(Piece { text: piece, logprob })?;
            if stopped {
                return Ok(Ended { made: made as usize, reason: "stop" });
            }
            if made < self.most {
                logits = model.read(&[token])?;
            }
        }
        with(Piece { text: text.end(), logprob: None })?;
        Ok(Ended { made: made as usize, reason: "length" })
    }
}

/// The text of an answer as it comes, held back where it may be the beginning of a stop text.
struct Text<'a> {
    stop: &'a [String],
    decoder: Decoder,
    held: String,
}

impl<'a> Text<'a> {
    fn new(stop: &'a [String]) -> Self {
        Self { stop, decoder: Decoder::default(), held: String::new() }
    }

    /// What can be told now, and whether a stop text has come.
    fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.held.push_str(&self.decoder.push(bytes));
        let found = self.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| self.held.find(stop.as_str()));
        if let Some(at) = found.min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begun = |stop: &String| {
            let prefixes = stop.char_indices().map(|(at, _)| at).rev();
            prefixes
                .filter(|at| *at > 0)
                .find(|at| self.held.ends_with(stop.get(..*at).unwrap_or_default()))
                .unwrap_or(0)
        };
        let kept = self.stop.iter().map(begun).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when nothing more comes.
    fn end(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.held);
        rest.push_str(&self.decoder.end());
        rest
    }
}

/// The logarithms of the chances of a token and of the likeliest.
fn chances(llm: &Llm, logits: &[f32], token: u32, top: usize) -> TokenLogprob {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let told = |token: u32, logit: f32| {
        let bytes = llm.tokenizer.bytes(token).to_vec();
        TopLogprob {
            token: String::from_utf8_lossy(&bytes).into_owned(),
            logprob: f64::from(logit - most) - sum.ln(),
            bytes,
        }
    };
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(top + 1);
    for (logit, token) in logits.iter().copied().zip(0u32..) {
        if best.len() < top || best.last().is_some_and(|last| logit > last.0) {
            let at = best.partition_point(|known| known.0 >= logit);
            best.insert(at, (logit, token));
            best.truncate(top);
        }
    }
    let own = told(token, logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY));
    TokenLogprob { own, top_logprobs: best.into_iter().map(|(logit, token)| told(token, logit)).collect() }
}

fn name(asked: String, llm: &Llm) -> String {
    if asked.is_empty() { llm.name.clone() } else { asked }
}

fn gone(error: crate::Error) -> Refusal {
    error.into()
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
    let order = Order { prompt, most: 0, sampling, stop, logprobs };
    let order = order.fit(request.max_tokens, &*model, "messages")?;
    let (id, created, model_name) = (id("chatcmpl"), now(), name(request.model, llm));
    if request.stream {
        let include_usage = request.include_usage;
        // Before the answer begins: until then its time is limited and the client is kept waiting.
        let logits = order.read(&mut *model)?;
        return Ok(Response::stream("text/event-stream", move |body| {
            let mut events = Events::new(body);
            let chunk = ChatChunk::begin(&id, created, &model_name);
            events.data(&chunk)?;
            let ended = order.run(llm, &mut *model, logits, &mut |piece| {
                let logprobs = piece.logprob.map(|token| ChoiceLogprobs { content: vec![token] });
                if piece.text.is_empty() && logprobs.is_none() {
                    return Ok(());
                }
                events.data(&chunk.text(&piece.text, logprobs)).map_err(gone)
            });
            match ended {
                Ok(ended) => {
                    events.data(&chunk.end(ended.reason))?;
                    if include_usage {
                        events.data(&chunk.usage(Usage::of(order.prompt.len(), ended.made)))?;
                    }
                    events.done()
                }
                Err(refusal) => events.refusal(&refusal),
            }
        }));
    }
    let (mut content, mut chances) = (String::new(), Vec::new());
    let logits = order.read(&mut *model)?;
    let ended = order.run(llm, &mut *model, logits, &mut |piece| {
        content.push_str(&piece.text);
        chances.extend(piece.logprob);
        Ok(())
    })?;
    let logprobs = order.logprobs.map(|_| ChoiceLogprobs { content: chances });
    let message = Message { role: "assistant", content, refusal: None };
    let choice = ChatChoice { index: 0, message, logprobs, finish_reason: ended.reason };
    let usage = Usage::of(order.prompt.len(), ended.made);
    let object = "chat.completion";
    Ok(json(&ChatCompletion { id, object, created, model: model_name, choices: vec![choice], usage }))
}

/// Chances as `/v1/completions` tells them: lists side by side.
#[derive(Default)]
struct Chances {
    tokens: Vec<String>,
    logprobs: Vec<Option<f64>>,
    top: Vec<serde_json::Value>,
    offsets: Vec<usize>,
    at: usize,
}

impl Chances {
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
    let order = Order { prompt, most: 0, sampling, stop, logprobs };
    let order = order.fit(Some(max_tokens), &*model, "prompt")?;
    let object = "text_completion";
    let whole = Completion {
        id: id("cmpl"),
        object,
        created: now(),
        model: name(request.model, llm),
        choices: vec![],
        usage: None,
    };
    let choice = |text: String, logprobs, finish_reason| vec![Choice { text, index: 0, logprobs, finish_reason }];
    if stream {
        if echo {
            return Err(Refusal::unsupported("echo", "not in a stream"));
        }
        let logits = order.read(&mut *model)?;
        return Ok(Response::stream("text/event-stream", move |body| {
            let mut events = Events::new(body);
            let part = |choices, usage| Completion { choices, usage, ..whole.clone() };
            let ended = order.run(llm, &mut *model, logits, &mut |piece| {
                if piece.text.is_empty() && piece.logprob.is_none() {
                    return Ok(());
                }
                let mut chances = Chances::default();
                let told = piece.logprob.map(|token| {
                    chances.push(&token, true);
                    chances.told()
                });
                events.data(&part(choice(piece.text, told, None), None)).map_err(gone)
            });
            match ended {
                Ok(ended) => {
                    events.data(&part(choice(String::new(), None, Some(ended.reason)), None))?;
                    if include_usage {
                        events.data(&part(vec![], Some(Usage::of(order.prompt.len(), ended.made))))?;
                    }
                    events.done()
                }
                Err(refusal) => events.refusal(&refusal),
            }
        }));
    }
    let mut chances = Chances::default();
    let (mut text, read) = if echo { echoed(&order, llm, &mut *model, &mut chances)? } else { (String::new(), None) };
    let logits = read.map_or_else(|| order.read(&mut *model), Ok)?;
    let ended = order.run(llm, &mut *model, logits, &mut |piece| {
        text.push_str(&piece.text);
        if let Some(token) = &piece.logprob {
            chances.push(token, true);
        }
        Ok(())
    })?;
    let told = order.logprobs.map(|_| chances.told());
    let usage = Some(Usage::of(order.prompt.len(), ended.made));
    Ok(json(&Completion { choices: choice(text, told, Some(ended.reason)), usage, ..whole }))
}

/// The text of the prompt, and the chances of its tokens if they are asked for; those of the first are not known. For them the
/// prompt is read: what comes next then is answered too.
fn echoed(
    order: &Order,
    llm: &Llm,
    model: &mut dyn Model,
    chances_of: &mut Chances,
) -> Result<(String, Option<Vec<f32>>), Refusal> {
    let mut behind = None;
    if let Some(top) = order.logprobs {
        let mut next = order.prompt.iter().copied();
        if let Some(first) = next.next() {
            let first = TopLogprob {
                token: String::from_utf8_lossy(llm.tokenizer.bytes(first)).into_owned(),
                logprob: 0.0,
                bytes: vec![],
            };
            chances_of.push(&TokenLogprob { own: first, top_logprobs: vec![] }, false);
        }
        order.begin(model)?;
        model.read_each(&order.prompt, &mut |logits| match next.next() {
            Some(token) => chances_of.push(&chances(llm, logits, token, top), true),
            None => behind = Some(logits.to_vec()),
        })?;
    }
    let mut decoder = Decoder::default();
    let text: String = order.prompt.iter().map(|token| decoder.push(llm.tokenizer.bytes(*token))).collect();
    Ok((text + &decoder.end(), behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stop: &[&str], parts: &[&str]) -> (String, bool) {
        let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
        let mut text = Text::new(&stop);
        let mut all = String::new();
        for part in parts {
            let (piece, stopped) = text.push(part.as_bytes());
            all.push_str(&piece);
            if stopped {
                return (all, true);
            }
        }
        (all + &text.end(), false)
    }

    #[test]
    fn a_stop_text_ends_an_answer_wherever_it_is_cut() {
        assert_eq!(told(&["END"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(told(&["END", "ne"], &["o", "n", "e"]), ("o".into(), true));
        assert_eq!(told(&["END"], &["one E", "N", "d"]), ("one ENd".into(), false));
        assert_eq!(told(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(told(&[""], &["a"]), ("a".into(), false));
        assert_eq!(told(&["é!"], &["x", "é", "?"]), ("xé?".into(), false));
    }
}
