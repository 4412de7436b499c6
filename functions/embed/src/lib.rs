//! Sentence embeddings behind OpenAI's API: all-MiniLM-L6-v2, from its safetensors file and its tokenizer.json.

mod bert;

use bert::{Bert, Plan};
use gannet_sdk::asset::Asset;
use gannet_sdk::http::{Request, Response};
use gannet_sdk::nn::SafeTensors;
use gannet_sdk::openai::{Embedding, EmbeddingList, EmbeddingRequest, Input, ModelList, Refusal, Usage, json};
use gannet_sdk::{gpu, nn};
use std::cell::OnceCell;
use tokenizers::{Tokenizer, TruncationParams};

nn::declare!(f32, f32_half, norm, attention, pool);

/// What it is called, where the request does not say.
const NAME: &str = "all-minilm-l6-v2";
/// The most tokens of a text, as the model was trained; what is longer is cut, as by the library that it comes from.
const TOKENS_MAX: usize = 256;

/// What is the same for all requests: an instance begins with it.
struct Start {
    tokenizer: Tokenizer,
    plan: Plan,
}

thread_local! {
    static START: OnceCell<&'static Start> = const { OnceCell::new() };
    /// Of an instance's requests, if it serves several.
    static BERT: OnceCell<Bert> = const { OnceCell::new() };
}

fn start() -> gpu::Result<&'static Start> {
    START.with(|cell| {
        if let Some(start) = cell.get() {
            return Ok(*start);
        }
        let asset = Asset::open("tokenizer")?;
        let not_sound = |error: tokenizers::Error| {
            gpu::Error::InvalidArgument(format!("the asset tokenizer is no tokenizer.json: {error}"))
        };
        let mut tokenizer = Tokenizer::from_bytes(asset.read(0, asset.len())?).map_err(not_sound)?;
        tokenizer.with_padding(None);
        let cut = TruncationParams { max_length: TOKENS_MAX, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(not_sound)?;
        let weights = Asset::open("weights")?;
        let plan = Plan::read(&SafeTensors::read(&mut weights.reader(), weights.len())?)?;
        Ok(*cell.get_or_init(|| Box::leak(Box::new(Start { tokenizer, plan }))))
    })
}

fn tokens(input: &Input) -> Result<Vec<u32>, Refusal> {
    match input {
        Input::Text(text) => {
            let encoded = start()?.tokenizer.encode_fast(text.as_str(), true);
            let encoded =
                encoded.map_err(|error| Refusal::invalid("input", format!("a text has no tokens: {error}")))?;
            Ok(encoded.get_ids().to_vec())
        }
        Input::Tokens(tokens) if tokens.len() > TOKENS_MAX => {
            Err(Refusal::too_long("input", tokens.len(), u32::try_from(TOKENS_MAX).unwrap_or(0)))
        }
        Input::Tokens(tokens) => Ok(tokens.clone()),
    }
}

fn embed(body: &[u8]) -> Result<Response, Refusal> {
    let request = EmbeddingRequest::parse(body)?;
    let texts: Vec<Vec<u32>> = request.input.iter().map(tokens).collect::<Result<_, _>>()?;
    let plan = &start()?.plan;
    if request.dimensions.is_some_and(|dimensions| dimensions != plan.width()) {
        let told = format!("embeddings of this model have {} numbers and cannot be cut", plan.width());
        return Err(Refusal::unsupported("dimensions", &told));
    }
    if let Some(unknown) = texts.iter().flatten().find(|token| **token >= plan.vocabulary()) {
        return Err(Refusal::invalid("input", format!("token {unknown}; this model has {}", plan.vocabulary())));
    }
    let found = BERT.with(|cell| match cell.get() {
        Some(bert) => bert.embed(&texts),
        None => {
            let bert = plan.open(&Asset::open("weights")?)?;
            cell.get_or_init(|| bert).embed(&texts)
        }
    })?;
    let data = found.iter().enumerate().map(|(index, values)| Embedding::new(index, values, request.base64));
    let usage = Usage::of_input(texts.iter().map(Vec::len).sum());
    let model = if request.model.is_empty() { NAME.to_owned() } else { request.model };
    Ok(json(&EmbeddingList { object: "list", data: data.collect(), model, usage }))
}

/// At deploy: reads the tokenizer and the header of the weights.
#[gannet_sdk::init]
fn init() -> gpu::Result<()> {
    start().map(|_| ())
}

#[gannet_sdk::handler]
fn serve(request: Request) -> Response {
    let answered = match (request.method(), request.path()) {
        ("GET", "/v1/models") => Ok(json(&ModelList::of(NAME, "gannet"))),
        ("POST", "/v1/embeddings") => embed(request.body()),
        (method, path) => Err(Refusal::unknown_path(method, path)),
    };
    answered.unwrap_or_else(Refusal::into_response)
}
