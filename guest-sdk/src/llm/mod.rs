//! Language models behind OpenAI's API. A function implements [`Model`], the forward pass. This module does the rest:
//! tokens, chat templates, sampling, stop texts, streams, usage and errors.
//!
//! ```no_run
//! use gannet_sdk::{Result, asset::Asset, gpu, http::{Request, Response}, llm::{self, Llm, Model}, nn::Gguf};
//! # struct Mine;
//! # impl Model for Mine {
//! #     fn context(&self) -> u32 { 0 }
//! #     fn vocabulary(&self) -> u32 { 0 }
//! #     fn begin(&mut self, _: u32) -> gpu::Result<()> { Ok(()) }
//! #     fn read(&mut self, _: &[u32]) -> gpu::Result<Vec<f32>> { Ok(Vec::new()) }
//! #     fn read_each(&mut self, _: &[u32], _: &mut dyn FnMut(&[f32])) -> gpu::Result<()> { Ok(()) }
//! # }
//! # fn open(_: &Gguf, _: &Asset) -> gpu::Result<Box<dyn Model>> { Ok(Box::new(Mine)) }
//!
//! #[gannet_sdk::handler]
//! fn chat(request: Request) -> Result<Response> {
//!     let asset = Asset::open("weights")?;
//!     let gguf = Gguf::read(&mut asset.reader(), asset.len())?;
//!     let llm: &'static Llm = Box::leak(Box::new(Llm::from_gguf("mine", &gguf)?));
//!     Ok(llm::serve(&request, llm, || open(&gguf, &asset)))
//! }
//! ```

mod tokenizer;
mod template;
mod model;
mod sampler;
mod stop;
mod generate;
mod serve;

pub use model::{Llm, Model};
pub use sampler::Sampler;
pub use serve::serve;
pub use template::Template;
pub use tokenizer::{Decoder, Tokenizer};
