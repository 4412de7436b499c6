//! `POST /v1/embeddings`: texts, tokens, or lists of either.

use super::shared_fields::{count, model, tokens_of};
use crate::openai::fields::Fields;
use crate::openai::refusal::Refusal;
use serde_json::Value;

/// The most inputs of one embedding request. OpenAI's API has the same limit.
const INPUTS_MAX: usize = 2048;

/// A text to embed.
///
/// ```
/// # use gannet_sdk::openai::Input;
/// let inputs = [Input::Text("a bird".into()), Input::Tokens(vec![101, 102])];
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A text.
    Text(String),
    /// The ids of its tokens.
    Tokens(Vec<u32>),
}

/// The parsed body of `POST /v1/embeddings`.
///
/// ```
/// # use gannet_sdk::openai::EmbeddingRequest;
/// let request = EmbeddingRequest::parse(br#"{"model": "embed", "input": ["a", "b"], "encoding_format": "base64"}"#)?;
/// assert_eq!((request.input.len(), request.base64), (2, true));
/// # Ok::<(), gannet_sdk::openai::Refusal>(())
/// ```
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    /// The model's name in the request; empty if there is none.
    pub model: String,
    /// The texts to embed: 1 to 2048, none of them empty.
    pub input: Vec<Input>,
    /// Whether the client wants base64 of little-endian `f32` instead of JSON numbers.
    pub base64: bool,
    /// Number of values that an embedding should have; `None` if the client does not say.
    pub dimensions: Option<u32>,
}

impl EmbeddingRequest {
    /// Parses a body. A refusal names the invalid field.
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
