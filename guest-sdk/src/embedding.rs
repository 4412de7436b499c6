//! Embedding models behind OpenAI's API. A function implements [`Embedder`], the tokens and the forward pass of its
//! model. [`serve`] does the rest: `GET /v1/models` and `POST /v1/embeddings`, with texts, tokens and lists of either
//! as input, numbers or base64 as output, usage, and errors.
//!
//! ```no_run
//! use gannet_sdk::{embedding::{self, Embedder}, gpu, http::{Request, Response}, openai::Refusal};
//!
//! /// The embedding of a text is how many letters it has.
//! struct Letters;
//!
//! impl Embedder for Letters {
//!     fn name(&self) -> &str {
//!         "letters"
//!     }
//!     fn vocabulary(&self) -> u32 {
//!         1
//!     }
//!     fn width(&self) -> u32 {
//!         1
//!     }
//!     fn tokens_max(&self) -> usize {
//!         256
//!     }
//!     fn tokens(&self, text: &str) -> Result<Vec<u32>, Refusal> {
//!         Ok(text.chars().take(256).map(|_| 0).collect())
//!     }
//!     fn embed(&self, texts: &[Vec<u32>]) -> gpu::Result<Vec<Vec<f32>>> {
//!         Ok(texts.iter().map(|tokens| vec![tokens.len() as f32]).collect())
//!     }
//! }
//!
//! #[gannet_sdk::handler]
//! fn letters(request: Request) -> Response {
//!     embedding::serve(&request, &Letters)
//! }
//! ```

use crate::gpu;
use crate::http::{Request, Response};
use crate::openai::{Embedding, EmbeddingList, EmbeddingRequest, Input, ModelList, Refusal, Usage, json};

/// An embedding model. The [module's documentation](self) has a complete example.
///
/// ```
/// # use gannet_sdk::{embedding::Embedder, gpu};
/// fn likeness(model: &dyn Embedder, one: Vec<u32>, other: Vec<u32>) -> gpu::Result<f32> {
///     let both = model.embed(&[one, other])?;
///     Ok(both[0].iter().zip(&both[1]).map(|(a, b)| a * b).sum())
/// }
/// ```
pub trait Embedder {
    /// The model's name in `GET /v1/models`, and in responses to requests that name no model.
    fn name(&self) -> &str;

    /// Number of tokens that the model knows. Token ids are below it.
    fn vocabulary(&self) -> u32;

    /// Number of values in an embedding.
    fn width(&self) -> u32;

    /// The most tokens of one text. Inputs that are lists of more tokens are refused.
    fn tokens_max(&self) -> usize;

    /// Returns the tokens of a text as the model was trained on them: with the tokens that begin and end a text, and
    /// cut to `tokens_max`.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, Refusal>;

    /// Returns one embedding of `width` values for each text, given as tokens.
    fn embed(&self, texts: &[Vec<u32>]) -> gpu::Result<Vec<Vec<f32>>>;
}

/// Handles a request of an OpenAI client. Errors are responses in OpenAI's shape ([`Refusal`]).
///
/// ```
/// # use gannet_sdk::{embedding::{self, Embedder}, http::{Request, Response}};
/// fn handle(request: &Request, model: &dyn Embedder) -> Response {
///     embedding::serve(request, model)
/// }
/// ```
pub fn serve(request: &Request, model: &dyn Embedder) -> Response {
    let answered = match (request.method(), request.path()) {
        ("GET", "/v1/models") => Ok(json(&ModelList::of(model.name(), "gannet"))),
        ("POST", "/v1/embeddings") => embeddings(request.body(), model),
        (method, path) => Err(Refusal::unknown_path(method, path)),
    };
    answered.unwrap_or_else(Refusal::into_response)
}

fn tokens(input: &Input, model: &dyn Embedder) -> Result<Vec<u32>, Refusal> {
    match input {
        Input::Text(text) => model.tokens(text),
        Input::Tokens(tokens) if tokens.len() > model.tokens_max() => {
            let most = u32::try_from(model.tokens_max()).unwrap_or(u32::MAX);
            Err(Refusal::too_long("input", tokens.len(), most))
        }
        Input::Tokens(tokens) => match tokens.iter().find(|token| **token >= model.vocabulary()) {
            Some(unknown) => {
                Err(Refusal::invalid("input", format!("token {unknown}; this model has {} tokens", model.vocabulary())))
            }
            None => Ok(tokens.clone()),
        },
    }
}

fn embeddings(body: &[u8], model: &dyn Embedder) -> Result<Response, Refusal> {
    let request = EmbeddingRequest::parse(body)?;
    if request.dimensions.is_some_and(|dimensions| dimensions != model.width()) {
        let told = format!("embeddings of this model have {} numbers and cannot be cut", model.width());
        return Err(Refusal::unsupported("dimensions", &told));
    }
    let texts: Vec<Vec<u32>> = request.input.iter().map(|input| tokens(input, model)).collect::<Result<_, _>>()?;
    let found = model.embed(&texts)?;
    let data = found.iter().enumerate().map(|(index, values)| Embedding::new(index, values, request.base64));
    let usage = Usage::of_input(texts.iter().map(Vec::len).sum());
    let name = if request.model.is_empty() { model.name().to_owned() } else { request.model };
    Ok(json(&EmbeddingList { object: "list", data: data.collect(), model: name, usage }))
}
