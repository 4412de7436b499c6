//! A playground: runs the kernel that is posted to it.
//!
//! `POST /` with
//! `{"wgsl": "…", "entry": "main", "grid": [x, y, z], "constants": {"N": 4}, "buffers": [
//!   {"group": 0, "binding": 0, "data": "<base64>", "read": true},
//!   {"group": 0, "binding": 1, "size": 4096}]}`. Each buffer has `data`, or a `size` in bytes and begins as
//! zeros. `read` returns its content in the response; `"kind": "uniform"` makes it a uniform.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gannet_sdk::gpu::{self, At, Batch, Bind, Buffer, Kernel};
use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    wgsl: String,
    #[serde(default = "main_entry")]
    entry: String,
    grid: [u32; 3],
    #[serde(default)]
    constants: BTreeMap<String, f64>,
    #[serde(default)]
    buffers: Vec<Slot>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    group: u32,
    binding: u32,
    data: Option<String>,
    size: Option<usize>,
    #[serde(default)]
    read: bool,
    #[serde(default)]
    kind: Kind,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Storage,
    Uniform,
}

#[derive(Serialize)]
struct Content {
    group: u32,
    binding: u32,
    data: String,
}

#[derive(Serialize)]
struct Receipt {
    gpu_ns: u64,
    slices: u32,
}

#[derive(Serialize)]
struct Answer {
    buffers: Vec<Content>,
    receipt: Receipt,
}

fn main_entry() -> String {
    "main".into()
}

#[gannet_sdk::handler]
fn wgsl(request: Request) -> Result<Response> {
    let job: Job = serde_json::from_slice(request.body()).map_err(|error| invalid(error.to_string()))?;
    let constants: Vec<(&str, f64)> = job.constants.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let kernel = Kernel::compile_with(&job.wgsl, &job.entry, &constants)?;

    let buffers = job.buffers.iter().map(fill).collect::<Result<Vec<_>>>()?;
    let by_reference: Vec<&Buffer<u8>> = buffers.iter().collect();
    let bindings: Vec<(u32, u32, &dyn Bind)> = job
        .buffers
        .iter()
        .zip(&by_reference)
        .map(|(slot, buffer)| (slot.group, slot.binding, buffer as &dyn Bind))
        .collect();

    let [x, y, z] = job.grid;
    let mut batch = Batch::new();
    batch.dispatch(&kernel, At(&bindings), gpu::Grid { x, y, z }).map_err(argument)?;
    let mut reads = Vec::new();
    for (slot, buffer) in job.buffers.iter().zip(&buffers).filter(|(slot, _)| slot.read) {
        reads.push((slot, batch.read(buffer)?));
    }
    let mut results = batch.submit().map_err(argument)?.wait()?;
    let contents = reads.iter().map(|(slot, read)| Content {
        group: slot.group,
        binding: slot.binding,
        data: STANDARD.encode(results.take(read)),
    });
    let buffers = contents.collect();
    let receipt = Receipt { gpu_ns: results.receipt.gpu_ns, slices: results.receipt.slices };
    Ok(Response::json(serde_json::to_string(&Answer { buffers, receipt })?))
}

fn fill(slot: &Slot) -> Result<Buffer<u8>> {
    let place = format!("the buffer at group {} binding {}", slot.group, slot.binding);
    if slot.kind == Kind::Uniform && slot.read {
        return Err(invalid(format!("{place} is a uniform, which no kernel changes: it cannot be read")));
    }
    match (&slot.data, slot.size) {
        (Some(data), None) => {
            let bytes = STANDARD.decode(data).map_err(|error| invalid(format!("{place}: {error}")))?;
            Ok(Buffer::from_slice(&bytes)?)
        }
        (None, Some(size)) => Ok(Buffer::zeroed(size)?),
        _ => Err(invalid(format!("{place} needs either data or size"))),
    }
}

fn invalid(message: String) -> Error {
    Error::new(400, message).with_code("job_invalid")
}

/// Converts an error to a response. The arguments come from the caller, so a wrong one is a 400.
fn argument(error: gpu::Error) -> Error {
    match error {
        gpu::Error::InvalidArgument(text) | gpu::Error::TooLarge(text) => {
            Error::new(400, text).with_code("invalid_argument")
        }
        other => other.into(),
    }
}
