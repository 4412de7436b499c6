//! Generates an answer: reads the prompt, then chooses and reads one token after the other.

use super::model::{Llm, Model};
use super::sampler::Sampler;
use super::stop::HeldText;
use crate::gpu;
use crate::openai::{Refusal, Sampling, TokenLogprob, TopLogprob};

/// The most tokens of an answer if the client sets no limit and the context has room for more.
const ANSWER_TOKENS: u32 = 1024;

/// A prompt, and how to continue it.
pub(super) struct Generation {
    pub(super) prompt: Vec<u32>,
    /// The most tokens to generate. [`fit`](Self::fit) sets it.
    pub(super) most: u32,
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    /// Number of alternatives to report for each token; `None` if no log probabilities were requested.
    pub(super) logprobs: Option<usize>,
}

/// A piece of an answer. `text` may be empty, while it may be the beginning of a stop text or of a character.
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) logprob: Option<TokenLogprob>,
}

/// How an answer ended.
pub(super) struct Finish {
    /// Number of tokens that were generated.
    pub(super) made: usize,
    /// `stop` or `length`.
    pub(super) reason: &'static str,
}

impl Generation {
    /// Checks the prompt's tokens, and that prompt and answer fit the model's context. `asked` is the client's limit of
    /// tokens, and `param` the request's field with the prompt.
    pub(super) fn fit(mut self, asked: Option<u32>, model: &dyn Model, param: &str) -> Result<Self, Refusal> {
        let (context, vocabulary) = (model.context(), model.vocabulary());
        if let Some(unknown) = self.prompt.iter().find(|token| **token >= vocabulary) {
            return Err(Refusal::invalid(param, format!("token {unknown}; this model has {vocabulary} tokens")));
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

    /// Begins a text, with room for prompt and answer.
    pub(super) fn begin(&self, model: &mut dyn Model) -> gpu::Result<()> {
        model.begin(u32::try_from(self.prompt.len()).unwrap_or(u32::MAX).saturating_add(self.most))
    }

    /// Reads the prompt, and returns the logits of the next token. If no tokens are to be generated, it reads nothing.
    pub(super) fn read(&self, model: &mut dyn Model) -> Result<Vec<f32>, Refusal> {
        if self.most == 0 {
            return Ok(Vec::new());
        }
        self.begin(model)?;
        Ok(model.read(&self.prompt)?)
    }

    /// Generates the answer and calls `with` for each piece. `logits` are those of the first token, as `read` returned
    /// them. An error of `with`, which means that the client has left, ends the answer.
    pub(super) fn run(
        &self,
        llm: &Llm,
        model: &mut dyn Model,
        mut logits: Vec<f32>,
        with: &mut dyn FnMut(Piece) -> Result<(), Refusal>,
    ) -> Result<Finish, Refusal> {
        let mut sampler = Sampler::new(self.sampling.clone());
        let mut text = HeldText::new(&self.stop);
        let mut made = 0;
        while made < self.most {
            let token = sampler.choose(&logits);
            made += 1;
            if llm.ends.contains(&token) {
                with(Piece { text: text.end(), logprob: None })?;
                return Ok(Finish { made: made as usize, reason: "stop" });
            }
            let (piece, stopped) = text.push(llm.tokenizer.bytes(token));
            let logprob = self.logprobs.map(|top| token_logprob(llm, &logits, token, top));
            with(Piece { text: piece, logprob })?;
            if stopped {
                return Ok(Finish { made: made as usize, reason: "stop" });
            }
            if made < self.most {
                logits = model.read(&[token])?;
            }
        }
        with(Piece { text: text.end(), logprob: None })?;
        Ok(Finish { made: made as usize, reason: "length" })
    }
}

/// Returns the log probabilities of a token and of the `top` likeliest tokens.
pub(super) fn token_logprob(llm: &Llm, logits: &[f32], token: u32, top: usize) -> TokenLogprob {
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
