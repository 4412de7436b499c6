//! A language model behind OpenAI's API, from a GGUF file: SmolLM2-135M-Instruct, or any other built like Llama in one of the
//! formats below.

mod llama;

use gannet_sdk::asset::Asset;
use gannet_sdk::http::{Request, Response};
use gannet_sdk::llm::{self, Llm, Model};
use gannet_sdk::nn::Gguf;
use gannet_sdk::{Result, gpu, nn};
use llama::Llama;
use std::cell::OnceCell;

nn::declare!(q4_1, q8_0, norm, rope, attention, activation);

/// What is the same for all requests: it is made when the function is deployed, and an instance begins with it.
struct Start {
    gguf: Gguf,
    llm: Llm,
}

thread_local! {
    static START: OnceCell<&'static Start> = const { OnceCell::new() };
}

fn start() -> gpu::Result<&'static Start> {
    START.with(|cell| {
        if let Some(start) = cell.get() {
            return Ok(*start);
        }
        let asset = Asset::open("weights")?;
        let gguf = Gguf::read(&mut asset.reader(), asset.len())?;
        let llm = Llm::from_gguf("smollm2-135m-instruct", &gguf)?;
        Ok(*cell.get_or_init(|| Box::leak(Box::new(Start { gguf, llm }))))
    })
}

fn open(gguf: &Gguf) -> gpu::Result<Box<dyn Model>> {
    let llama: &'static Llama = Box::leak(Box::new(Llama::open(gguf, &Asset::open("weights")?)?));
    Ok(Box::new(llama.reader()))
}

/// At deploy: reads the vocabulary and the template out of the weights' file.
#[gannet_sdk::init]
fn init() -> gpu::Result<()> {
    start().map(|_| ())
}

#[gannet_sdk::handler]
fn chat(request: Request) -> Result<Response> {
    let start = start()?;
    Ok(llm::serve(&request, &start.llm, || open(&start.gguf)))
}
