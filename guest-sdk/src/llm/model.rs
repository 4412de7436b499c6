//! A language model: its forward pass ([`Model`]), and what it is beside its weights ([`Llm`]).

use super::template::Template;
use super::tokenizer::Tokenizer;
use crate::gpu::Result;
use crate::nn::{Gguf, Value};

/// A model's forward pass. It keeps what it has read, so that the next token costs one pass.
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
    /// The most tokens of a text, those that are made included.
    fn context(&self) -> u32;

    /// How many tokens there are.
    fn vocabulary(&self) -> u32;

    /// Forgets what was read, and makes room for so many tokens.
    fn begin(&mut self, tokens: u32) -> Result<()>;

    /// Reads tokens behind those that were read, and answers the logits of what comes next.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// The same, and calls `with` with the logits behind each of them.
    fn read_each(&mut self, tokens: &[u32], with: &mut dyn FnMut(&[f32])) -> Result<()>;
}

/// What a language model is beside its weights.
///
/// ```no_run
/// # use gannet_sdk::{asset::Asset, llm::Llm, nn::Gguf};
/// let asset = Asset::open("weights")?;
/// let llm = Llm::from_gguf("smollm2-135m-instruct", &Gguf::read(&mut asset.reader(), asset.len())?)?;
/// # Ok::<(), gannet_sdk::gpu::Error>(())
/// ```
#[derive(Debug)]
pub struct Llm {
    /// What it is called in answers, where the request does not say.
    pub name: String,
    /// Texts to tokens and back.
    pub tokenizer: Tokenizer,
    /// Chats to texts; none where the model was trained for none.
    pub template: Option<Template>,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
    /// The token that every text begins with; none where the model was trained without.
    pub begin: Option<u32>,
}

impl Llm {
    /// What a GGUF file says.
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
        // What models that speak in turns end them with, whether the file says so or not.
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

    /// The tokens of a prompt, which begins as the model wants it: chat templates may have written that already.
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
