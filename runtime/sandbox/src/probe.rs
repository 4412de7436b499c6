//! The probe child: lists or measures the GPUs, or runs a kernel on one of them, reports once and exits.
//!
//! A GPU driver can crash or hang the process that loads it. That must be this process, never the front door.

use gannet_process::channel::send_now;
use gannet_process::child::{Child, PROBE_MEASURE};
use serde::Serialize;
use std::io;
use std::os::fd::AsFd;

/// Runs a probe. Argument: a GPU's index to test that GPU, [`PROBE_MEASURE`] to measure all, none to list them.
pub fn run(child: &Child, arguments: &[String]) -> io::Result<()> {
    let control = child.descriptors.first().ok_or_else(|| io::Error::other("no control socket"))?;
    let argument = arguments.first().map(String::as_str);
    let report = match argument.and_then(|text| text.parse().ok()) {
        Some(gpu) => json(&problem_of(gpu)?)?,
        None if argument == Some(PROBE_MEASURE) => json(&gannet_host_gpu::adapter::measure())?,
        None => json(&gannet_host_gpu::discover())?,
    };
    send_now(control.as_fd(), &report, &[])
}

fn json(report: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(report)?)
}

/// Runs a kernel on a GPU. Returns what is wrong with the GPU, or none.
fn problem_of(gpu: u32) -> io::Result<Option<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(gannet_host_gpu::probe::probe(gpu)).err().map(|error| error.to_string()))
}
