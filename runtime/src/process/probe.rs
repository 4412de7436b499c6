//! Short-lived children that load GPU drivers, because a driver can crash or hang the process that does: one lists the
//! GPUs, another tries a kernel on one.

use crate::process::channel::{Channel, frame_pair, send_now};
use crate::process::child::{Child, Role};
use crate::process::spawn::{Order, Spawner};
use gannet_host_gpu::Gpu;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Listing the GPUs loads every driver.
const LIST_MAX: Duration = Duration::from_secs(30);
/// From the kill to the end of the process.
const END_MAX: Duration = Duration::from_secs(5);
/// The argument that asks for measuring.
const MEASURE: &str = "measure";
/// Trying one: loading the driver, compiling a small kernel, running it.
const TRY_MAX: Duration = Duration::from_secs(10);

/// Which GPUs there are, and what memory a device takes on each.
pub async fn list(spawner: &Spawner, run_folder: &Path) -> io::Result<Vec<Gpu>> {
    // A driver that cannot open a device is listed all the same.
    match ask(spawner, run_folder, vec![MEASURE.to_owned()], LIST_MAX).await {
        Err(error) => {
            tracing::warn!(%error, "the gpus are listed without opening them");
            ask(spawner, run_folder, Vec::new(), LIST_MAX).await
        }
        listed => listed,
    }
}

/// Whether a GPU computes what it should.
pub async fn try_gpu(spawner: &Spawner, run_folder: &Path, gpu: u32) -> io::Result<()> {
    let failure: Option<String> = ask(spawner, run_folder, vec![gpu.to_string()], TRY_MAX).await?;
    failure.map_or(Ok(()), |failure| Err(io::Error::other(failure)))
}

async fn ask<T: DeserializeOwned>(
    spawner: &Spawner,
    run_folder: &Path,
    arguments: Vec<String>,
    longest: Duration,
) -> io::Result<T> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let home = run_folder.join(format!("probe-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&home)?;
    let (ours, theirs) = frame_pair()?;
    let ours = Channel::new(ours)?;
    let order = Order { role: Role::Probe, arguments, home, descriptors: vec![theirs] };
    let process = spawner.spawn(order).await?;
    let received = tokio::time::timeout(longest, ours.receive::<T>()).await;
    process.kill();
    // A driver may hold it where no signal reaches it.
    let Ok(ending) = tokio::time::timeout(END_MAX, process.ended()).await else {
        tokio::spawn(async move { process.ended().await });
        return Err(io::Error::other("the gpu drivers could not be asked: the child cannot be ended"));
    };
    match received {
        Ok(Ok((answer, _))) => Ok(answer),
        _ => Err(io::Error::other(format!("the gpu drivers could not be asked: the child ended with {ending}"))),
    }
}

/// The child. Argument: the GPU to try; or to measure them all; or none to list them.
pub fn run(child: &Child, arguments: &[String]) -> io::Result<()> {
    let control = child.descriptors.first().ok_or_else(|| io::Error::other("no control socket"))?;
    let say = |bytes: Vec<u8>| send_now(control.as_fd(), &bytes, &[]);
    let argument = arguments.first().map(String::as_str);
    match argument.and_then(|text| text.parse().ok()) {
        Some(gpu) => say(json(&tried(gpu)?)?),
        None if argument == Some(MEASURE) => say(json(&gannet_host_gpu::adapter::measure())?),
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
