//! The fields that several kinds of request have: how tokens are chosen, how many, whether the answer is streamed.

use crate::openai::fields::Fields;
use crate::openai::refusal::Refusal;
use serde_json::Value;

/// Stop strings of a request, as OpenAI has it.
pub(super) const STOPS_MAX: usize = 4;
/// The largest token id that is looked at.
const ID_MAX: u64 = 1 << 32;
/// The most tokens that may be asked for.
pub(super) const TOKENS_MAX: i64 = 1 << 20;

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

/// Whether the answer is streamed, and whether the stream ends with what was used.
pub(super) fn streaming(fields: &Fields) -> Result<(bool, bool), Refusal> {
    let stream = fields.flag("stream")?;
    let Some(options) = fields.object("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        return Err(Refusal::invalid("stream_options", "stream_options is there, and stream is not true"));
    }
    Ok((stream, options.flag("include_usage")?))
}

/// The model as the client calls it; empty if it does not say.
pub(super) fn model(fields: &Fields) -> Result<String, Refusal> {
    Ok(fields.text("model")?.unwrap_or_default().to_owned())
}

/// The items as token ids, if all of them are.
pub(super) fn tokens_of(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|item| item.as_u64().filter(|id| *id < ID_MAX).and_then(|id| u32::try_from(id).ok())).collect()
}

/// What both kinds of completion refuse.
pub(super) fn refuse_more_answers(fields: &Fields) -> Result<(), Refusal> {
    for name in ["n", "best_of"] {
        if let Some(count) = fields.integer(name, 1..=128)?.filter(|count| *count > 1) {
            let told = format!("{name} is {count}; this model gives one answer");
            return Err(Refusal::invalid(name, told).with_code("unsupported_value"));
        }
    }
    fields.refuse(&["logit_bias"], "tokens cannot be made likelier")
}

/// A number that was checked to be in range.
pub(super) fn count(asked: Option<i64>) -> Option<u32> {
    asked.and_then(|count| u32::try_from(count).ok())
}
