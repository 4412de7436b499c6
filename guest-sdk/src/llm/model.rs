//! A language model: its forward pass ([`Model`]), and its name, tokenizer and special tokens ([`Llm`]).

use super::template::Template;
use super::tokenizer::Tokenizer;
use crate::gpu::Result;
use crate::nn::{Gguf, Value};

/// A model's forward pass over one text. It keeps the state of the tokens that it has read, so that each further token
/// costs one pass. Logits are `vocabulary` values, one for each token id.
///
/// ```
/// # use gannet_sdk::{gpu, llm::Model};
/// /// Always goes on with the token 7.
/// struct Stubborn;
///
/// impl Model for Stubborn {
///     fn context(&self) -> u32 {
///         2048
///     }
///     fn vocabulary(&self) -> u32 {
///         8
///     }
///     fn begin(&mut self, _tokens: u32) -> gpu::Result<()> {
///         Ok(())
///     }
///     fn read(&mut self, _tokens: &[u32]) -> gpu::Result<Vec<f32>> {
///         Ok(vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
///     }
///     fn read_each(&mut self, tokens: &[u32], with: &mut dyn FnMut(&[f32])) -> gpu::Result<()> {
///         for token in tokens {
///             with(&self.read(&[*token])?);
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Model {
    /// The most tokens of a text, prompt and answer together.
    fn context(&self) -> u32;

    /// Number of tokens that the model knows. Token ids are below it.
    fn vocabulary(&self) -> u32;

    /// Begins a new text: forgets the tokens that were read, and makes room for `tokens` tokens.
    fn begin(&mut self, tokens: u32) -> Result<()>;

    /// Appends tokens to those that were read, and returns the logits of the token that follows.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// As `read`, but calls `with` for each of `tokens`, in order, with the logits of the token that follows it.
    fn read_each(&mut self, tokens: &[u32], with: &mut dyn FnMut(&[f32])) -> Result<()>;
}

/// A language model without its weights: name, tokenizer, chat template and special tokens.
///
/// ```no_run
/// # use gannet_sdk::{asset::Asset, llm::Llm, nn::Gguf};
/// let asset = Asset::open("weights")?;
/// let llm = Llm::from_gguf("smollm2-135m-instruct", &Gguf::read(&mut asset.reader(), asset.len())?)?;
/// # Ok::<(), gannet_sdk::gpu::Error>(())
/// ```
#[derive(Debug)]
pub struct Llm {
    /// The model's name in `GET /v1/models`, and in responses to requests that name no model.
    pub name: String,
    /// Converts texts to tokens and back.
    pub tokenizer: Tokenizer,
    /// Converts chats to texts; `None` if the model was not trained for chats, which are then refused.
    pub template: Option<Template>,
    /// Ids of the tokens that end an answer.
    pub ends: Vec<u32>,
    /// Id of the token that every text begins with; `None` if the model was trained without one.
    pub begin: Option<u32>,
}

impl Llm {
    /// Reads tokenizer, chat template and special tokens from the metadata of a GGUF file.
    ///
    /// Missing or invalid entries are `InvalidArgument`; a tokenizer other than byte-level BPE is `Unsupported`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, llm::Llm, nn::Gguf};
    /// fn open(gguf: &Gguf) -> gpu::Result<Llm> {
    ///     Llm::from_gguf("mine", gguf)
    /// }
    /// ```
    pub fn from_gguf(name: &str, gguf: &Gguf) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let template = gguf.get("tokenizer.chat_template").and_then(Value::text);
        let ends = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
        let ends = ends.iter().filter_map(|name| gguf.get(name)?.integer().and_then(|id| u32::try_from(id).ok()));
        let mut ends: Vec<u32> = ends.collect();
        // Chat models end a turn with one of these, even if the file does not list it.
        ends.extend(
            ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"].iter().filter_map(|text| tokenizer.special(text)),
        );
        ends.sort_unstable();
        ends.dedup();
        let text = |key: &str| {
            let id = gguf.get(key).and_then(Value::integer).and_then(|id| usize::try_from(id).ok())?;
            gguf.get("tokenizer.ggml.tokens")?.texts()?.get(id)
        };
        let mut template = template.map(Template::new).transpose()?;
        for (name, key) in [("bos_token", "tokenizer.ggml.bos_token_id"), ("eos_token", "tokenizer.ggml.eos_token_id")]
        {
            template = template.map(|template| template.with_token(name, text(key).map_or("", String::as_str)));
        }
        let adds = matches!(gguf.get("tokenizer.ggml.add_bos_token"), Some(Value::Bool(true)));
        let begin = gguf.get("tokenizer.ggml.bos_token_id").and_then(Value::integer);
        let begin = begin.and_then(|id| u32::try_from(id).ok()).filter(|_| adds);
        Ok(Self { name: name.to_owned(), tokenizer, template, ends, begin })
    }

    /// Returns the tokens of a prompt. They begin with `begin`, which is added unless the text, from a chat template,
    /// has it already.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, llm::Llm};
    /// fn prompt(llm: &Llm) -> gpu::Result<Vec<u32>> {
    ///     llm.encode("Once upon a time")
    /// }
    /// ```
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text)?;
        if let Some(begin) = self.begin.filter(|begin| tokens.first() != Some(begin)) {
            tokens.insert(0, begin);
        }
        Ok(tokens)
    }
}
