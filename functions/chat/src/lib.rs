//! A language model behind OpenAI's API, from a GGUF file: SmolLM2-135M-Instruct, or any other model with the
//! architecture of Llama in one of the formats below.

mod llama;

use gannet_sdk::asset::Asset;
use gannet_sdk::http::{Request, Response};
use gannet_sdk::llm::{self, Llm, Model};
use gannet_sdk::nn::{DType, Gguf};
use gannet_sdk::{Result, gpu, nn};
use llama::{Llama, Plan};
use std::cell::OnceCell;

nn::declare!(q4_1, q8_0, norm, rope, attention, activation);
/// The weight formats among the kernels declared above.
const FORMATS: [DType; 2] = [DType::Q4_1, DType::Q8_0];

/// State that all requests share. `init` makes it at deploy, and each instance starts with it in memory.
struct Start {
    plan: Plan,
    llm: Llm,
}

thread_local! {
    static START: OnceCell<&'static Start> = const { OnceCell::new() };
    /// The model on the GPU, shared by the requests of an instance if it serves several.
    static LLAMA: OnceCell<&'static Llama> = const { OnceCell::new() };
}

/// Returns the value in the cell. If the cell is empty, `make` makes it. It lives as long as the instance.
fn kept<T>(cell: &OnceCell<&'static T>, make: impl FnOnce() -> gpu::Result<T>) -> gpu::Result<&'static T> {
    if let Some(made) = cell.get() {
        return Ok(*made);
    }
    let made = make()?;
    Ok(*cell.get_or_init(|| Box::leak(Box::new(made))))
}

fn start() -> gpu::Result<&'static Start> {
    START.with(|cell| {
        kept(cell, || {
            let asset = Asset::open("weights")?;
            let gguf = Gguf::read(&mut asset.reader(), asset.len())?;
            Ok(Start { plan: Plan::read(&gguf, &FORMATS)?, llm: Llm::from_gguf("smollm2-135m-instruct", &gguf)? })
        })
    })
}

fn open(plan: &Plan) -> gpu::Result<Box<dyn Model>> {
    let llama = LLAMA.with(|cell| kept(cell, || plan.open(&Asset::open("weights")?)))?;
    Ok(Box::new(llama.reader()))
}

/// Runs at deploy: checks the file of the weights, and reads the vocabulary and the chat template from it.
#[gannet_sdk::init]
fn init() -> gpu::Result<()> {
    start().map(|_| ())
}

#[gannet_sdk::handler]
fn chat(request: Request) -> Result<Response> {
    let start = start()?;
    Ok(llm::serve(&request, &start.llm, || open(&start.plan)))
}
