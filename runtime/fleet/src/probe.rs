//! The parent's side of probes: short-lived children that load GPU drivers, because a driver can crash or hang the
//! process that loads it. One kind of probe lists the GPUs, the other tries a kernel on one.

use gannet_gpu_protocol::Gpu;
use gannet_process::channel::{Channel, frame_pair};
use gannet_process::child::{PROBE_MEASURE, Role};
use gannet_process::spawn::{ChildSpec, Spawner};
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time limit for listing the GPUs, which loads every driver.
const LIST_MAX: Duration = Duration::from_secs(30);
/// How long a killed probe may take to exit.
const END_MAX: Duration = Duration::from_secs(5);
/// Time limit for trying one GPU: loading the driver, compiling a small kernel, running it.
const TRY_MAX: Duration = Duration::from_secs(10);

/// Returns the GPUs of this machine, and how much memory a device takes on each.
pub async fn list(spawner: &Spawner, run_folder: &Path) -> io::Result<Vec<Gpu>> {
    // A GPU is listed even if its driver cannot open a device.
    match ask(spawner, run_folder, vec![PROBE_MEASURE.to_owned()], LIST_MAX).await {
        Err(error) => {
            tracing::warn!(%error, "the gpus could not be measured; they are listed without opening them");
            ask(spawner, run_folder, Vec::new(), LIST_MAX).await
        }
        listed => listed,
    }
}

/// Runs a kernel on a GPU. Returns an error if the kernel fails or its result is wrong.
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
    let spec = ChildSpec { role: Role::Probe, arguments, home, descriptors: vec![theirs] };
    let process = spawner.spawn(spec).await?;
    let received = tokio::time::timeout(longest, ours.receive::<T>()).await;
    process.kill();
    // It may hang in a driver, where no signal reaches it.
    let Ok(ending) = tokio::time::timeout(END_MAX, process.ended()).await else {
        tokio::spawn(async move { process.ended().await });
        return Err(io::Error::other("cannot query the gpu drivers: the probe does not exit after it was killed"));
    };
    match received {
        Ok(Ok((answer, _))) => Ok(answer),
        _ => Err(io::Error::other(format!("cannot query the gpu drivers: the probe ended with {ending}"))),
    }
}
