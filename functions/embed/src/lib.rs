//! Sentence embeddings behind OpenAI's API: all-MiniLM-L6-v2, from its safetensors file and its tokenizer.json.

mod bert;

use bert::{Bert, Plan};
use gannet_sdk::asset::Asset;
use gannet_sdk::embedding::{self, Embedder};
use gannet_sdk::http::{Request, Response};
use gannet_sdk::nn::SafeTensors;
use gannet_sdk::openai::Refusal;
use gannet_sdk::{Result, gpu, nn};
use std::cell::OnceCell;
use tokenizers::{Tokenizer, TruncationParams};

nn::declare!(f32, f32_half, norm, attention, pool);

/// The most tokens of a text that the model was trained with. Longer texts are cut, as sentence-transformers does.
const TOKENS_MAX: usize = 256;
/// Bytes of a text that are tokenized first. They mostly contain enough tokens.
const HEAD_BYTES: usize = 4 << 10;
/// Limit on the bytes that are tokenized at once. The library takes a hundred times as much memory for them.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// State that all requests share. `init` makes it at deploy, and each instance starts with it in memory.
struct Start {
    tokenizer: Tokenizer,
    plan: Plan,
}

thread_local! {
    static START: OnceCell<&'static Start> = const { OnceCell::new() };
    /// The model on the GPU, shared by the requests of an instance if it serves several.
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

/// Returns the beginning of a text, with at least `bytes` bytes if it has them. It ends before white space or an
/// ideograph (each ideograph is a token), so that the text behind it cannot change its tokens.
fn head(text: &str, bytes: usize) -> &str {
    let ends = |letter: char| letter.is_ascii_whitespace() || ('\u{4e00}'..='\u{9fff}').contains(&letter);
    let from = text.floor_char_boundary(bytes);
    let behind = text.get(from..).and_then(|behind| behind.find(ends));
    behind.and_then(|at| text.get(..from + at)).unwrap_or(text)
}

impl Embedder for Start {
    fn name(&self) -> &str {
        "all-minilm-l6-v2"
    }

    fn vocabulary(&self) -> u32 {
        self.plan.vocabulary()
    }

    fn width(&self) -> u32 {
        self.plan.width()
    }

    fn tokens_max(&self) -> usize {
        TOKENS_MAX
    }

    fn tokens(&self, text: &str) -> std::result::Result<Vec<u32>, Refusal> {
        let mut bytes = HEAD_BYTES;
        loop {
            let head = head(text, bytes);
            if head.len() > HEAD_BYTES_MAX {
                let size = text.len();
                let told =
                    format!("a text of {size} bytes does not end {TOKENS_MAX} tokens in the first {HEAD_BYTES_MAX}");
                return Err(Refusal::invalid("input", told));
            }
            let encoded = self.tokenizer.encode_fast(head, true);
            let encoded =
                encoded.map_err(|error| Refusal::invalid("input", format!("a text has no tokens: {error}")))?;
            if head.len() == text.len() || encoded.len() == TOKENS_MAX {
                return Ok(encoded.get_ids().to_vec());
            }
            bytes *= 4;
        }
    }

    fn embed(&self, texts: &[Vec<u32>]) -> gpu::Result<Vec<Vec<f32>>> {
        BERT.with(|cell| match cell.get() {
            Some(bert) => bert.embed(texts),
            None => {
                let bert = self.plan.open(&Asset::open("weights")?)?;
                cell.get_or_init(|| bert).embed(texts)
            }
        })
    }
}

/// Runs at deploy: reads the tokenizer and the header of the weights.
#[gannet_sdk::init]
fn init() -> gpu::Result<()> {
    start().map(|_| ())
}

#[gannet_sdk::handler]
fn serve(request: Request) -> Result<Response> {
    Ok(embedding::serve(&request, start()?))
}
