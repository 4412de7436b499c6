//! The child's side of probes: lists the GPUs, or tries a kernel on one, and ends.

use gannet_process::channel::send_now;
use gannet_process::child::{Child, PROBE_MEASURE};
use serde::Serialize;
use std::io;
use std::os::fd::AsFd;

/// The child. Argument: the GPU to try; or to measure them all; or none to list them.
pub fn run(child: &Child, arguments: &[String]) -> io::Result<()> {
    let control = child.descriptors.first().ok_or_else(|| io::Error::other("no control socket"))?;
    let say = |bytes: Vec<u8>| send_now(control.as_fd(), &bytes, &[]);
    let argument = arguments.first().map(String::as_str);
    match argument.and_then(|text| text.parse().ok()) {
        Some(gpu) => say(json(&tried(gpu)?)?),
        None if argument == Some(PROBE_MEASURE) => say(json(&gannet_host_gpu::adapter::measure())?),
        None => say(json(&gannet_host_gpu::discover())?),
    }
}

fn json(answer: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(answer)?)
}

/// What is wrong with a GPU.
fn tried(gpu: u32) -> io::Result<Option<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(gannet_host_gpu::probe::probe(gpu)).err().map(|error| error.to_string()))
}
