//! Fields that several kinds of request share: sampling, number of tokens, streaming.

use crate::openai::fields::Fields;
use crate::openai::refusal::Refusal;
use serde_json::Value;

/// The most stop texts of a request. OpenAI's API has the same limit.
pub(super) const STOPS_MAX: usize = 4;
/// Token ids must be below this.
const ID_MAX: u64 = 1 << 32;
/// The most tokens that a request may ask for.
pub(super) const TOKENS_MAX: i64 = 1 << 20;

/// How tokens are chosen.
///
/// ```
/// # use gannet_sdk::openai::Sampling;
/// let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it: 0 to 2. With 0, the likeliest token is always chosen.
    pub temperature: f64,
    /// The choice is among the likeliest tokens whose probabilities add up to this: 0 to 1.
    pub top_p: f64,
    /// Subtracted from the logit of a token that is in the answer already: −2 to 2.
    pub presence_penalty: f64,
    /// Subtracted from the logit of a token once for each time that it is in the answer: −2 to 2.
    pub frequency_penalty: f64,
    /// The same seed makes the same choices; `None` for random ones.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, presence_penalty: 0.0, frequency_penalty: 0.0, seed: None }
    }
}

impl Sampling {
    #[allow(clippy::cast_sign_loss)]
    pub(super) fn read(fields: &Fields) -> Result<Self, Refusal> {
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

/// Returns whether the answer is streamed, and whether the stream ends with the usage.
pub(super) fn streaming(fields: &Fields) -> Result<(bool, bool), Refusal> {
    let stream = fields.flag("stream")?;
    let Some(options) = fields.object("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        return Err(Refusal::invalid("stream_options", "stream_options is set, and stream is not true"));
    }
    Ok((stream, options.flag("include_usage")?))
}

/// The model's name in the request; empty if there is none.
pub(super) fn model(fields: &Fields) -> Result<String, Refusal> {
    Ok(fields.text("model")?.unwrap_or_default().to_owned())
}

/// Converts a list to token ids; `None` if an item is not a token id.
pub(super) fn tokens_of(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|item| item.as_u64().filter(|id| *id < ID_MAX).and_then(|id| u32::try_from(id).ok())).collect()
}

/// Refuses the fields that both kinds of completion do not support.
pub(super) fn refuse_more_answers(fields: &Fields) -> Result<(), Refusal> {
    for name in ["n", "best_of"] {
        if let Some(count) = fields.integer(name, 1..=128)?.filter(|count| *count > 1) {
            let told = format!("{name} is {count}; this model gives one answer");
            return Err(Refusal::invalid(name, told).with_code("unsupported_value"));
        }
    }
    fields.refuse(&["logit_bias"], "tokens cannot be made likelier")
}

/// Converts a number that was checked to be in range.
pub(super) fn count(asked: Option<i64>) -> Option<u32> {
    asked.and_then(|count| u32::try_from(count).ok())
}
