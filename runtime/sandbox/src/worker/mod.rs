//! The worker: one tenant's code and one GPU device, in a process of its own.
//!
//! ```text
//!  confine ▶ open device ▶ engine ▶ threads ▶ seccomp ▶ Ready
//!                                                     │ Load(version)  ▶ load ▶ Loaded
//!  control socket ────────────────────────────────────┤ Connect(socket) ▶ serve HTTP/1.1 on it
//!                                                     └ closed          ▶ exit at once
//!  each request: a fresh instance ▶ guest runs, metered ▶ answer, receipt
//! ```
//!
//! In: frames and HTTP from the front door. Out: answers, receipts, log lines. It has no network,
//! no store and no file but its own folder. It ends by `exit`, never by dropping the device: that
//! would wait for the GPU without a limit.

mod context;
mod answer;
mod cpu;
mod egress;
mod idle;
mod load;
mod log;
mod pipelines;
mod run;
mod received;
mod service;
mod guest;
mod usage;
mod ticker;
mod warm;

use crate::arbiter_link;
use crate::engine;
use context::WorkerContext;
use gannet_base::hop::{FromWorker, ToWorker};
use gannet_host_gpu::Device;
use gannet_host_gpu::device::DeviceOptions;
use gannet_host_gpu::lease::ArbiterLink;
use gannet_process::channel::Channel;
use gannet_process::child::Child;
use gannet_process::confine;
use load::Loaded;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use ticker::Ticker;
use tokio::sync::Semaphore;

// For the builder: it checks imports against the linker that requests get, and runs `init` with it.
pub(crate) use guest::{Guest, linker};

/// Runs a worker. Arguments: the GPU's index or `none`, the memory its tenant may take on it, whether components for
/// `wasi:http` 0.3 run, the class of the GPU, and whether assets may be mapped.
pub fn run(child: Child, arguments: &[String]) -> io::Result<()> {
    let Child { descriptors, mut confinement, home } = child;
    let [control, logs, leases, notes]: [OwnedFd; 4] =
        descriptors.try_into().map_err(|_| io::Error::other("a worker needs four descriptors"))?;
    let device = open_device(arguments, arbiter_link::open(leases, notes)?);
    let wasi_http_0_3 = arguments.get(2).is_some_and(|text| text == "true");
    let engine = engine::pooling(wasi_http_0_3).map_err(io::Error::other)?;
    let linker = linker(&engine, wasi_http_0_3).map_err(io::Error::other)?;
    let ticker = Arc::new(Ticker::start(&engine)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    confine::after_drivers(&mut confinement).map_err(io::Error::other)?;
    if let Ok(device) = &device
        && let Err(error) = device.warm()
    {
        tracing::warn!(%error, "the gpu driver could not be warmed up");
    }
    runtime.block_on(async move {
        warm::warm(&engine).await.map_err(io::Error::other)?;
        let shared = Arc::new(WorkerContext {
            engine,
            ticker,
            linker,
            versions: Mutex::default(),
            instances: Arc::new(Semaphore::new(gannet_base::manifest::INSTANCES_MAX as usize)),
            idle: Arc::default(),
            control: Channel::new(control)?,
            logs: Arc::new(log::Sink::new(logs)),
            egress: Arc::default(),
            pipelines: pipelines::Pipelines::new(home),
            device,
        });
        if let Ok(device) = &shared.device {
            let idle = Arc::downgrade(&shared.idle);
            device.on_memory_pressure(move || idle.upgrade().is_some_and(|idle| idle.free()));
        }
        let gpu = shared.device.as_ref().ok().map(|device| device.gpu().name.clone());
        shared.control.send(&FromWorker::Ready { confinement, gpu }, &[]).await.map_err(io::Error::other)?;
        serve(&shared).await;
        // The front door is gone, or sent what it must not. Nothing here is worth keeping.
        gannet_process::child::leave(0);
    })
}

fn open_device(arguments: &[String], link: ArbiterLink) -> Result<Arc<Device>, gannet_host_gpu::Error> {
    let index = arguments.first().and_then(|text| text.parse().ok());
    let memory_max = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let class = arguments.get(3).cloned();
    let map_assets = arguments.get(4).is_some_and(|text| text == "true");
    match index {
        Some(index) => Device::open_shared(DeviceOptions { index, class, memory_max, map_assets }, Some(link)),
        None => Err(gannet_host_gpu::Error::Unsupported("this server has no gpu".into())),
    }
}

async fn serve(shared: &Arc<WorkerContext>) {
    while let Ok((message, descriptors)) = shared.control.receive::<ToWorker>().await {
        match message {
            ToWorker::Load { version } => {
                let shared = Arc::clone(shared);
                tokio::task::spawn_blocking(move || {
                    let error = load_version(&shared, version, descriptors).err();
                    tokio::runtime::Handle::current().block_on(async move {
                        // A closed channel ends the process in `serve`.
                        let _ = shared.control.send(&FromWorker::Loaded { version, error }, &[]).await;
                    });
                });
            }
            ToWorker::Unload { version } => {
                let gone = shared.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(&version);
                shared.idle.forget(version);
                if gone.is_some_and(|loaded| !loaded.inputs.assets.is_empty()) {
                    forget_assets(shared);
                }
            }
            ToWorker::Egress => {
                let Some(socket) = descriptors.into_iter().next() else { return };
                shared.egress.open(socket).await;
            }
            ToWorker::Quarantine { sources } => {
                if let Ok(device) = &shared.device {
                    device.quarantine(sources);
                }
            }
            ToWorker::Connect => {
                let Some(socket) = descriptors.into_iter().next() else { return };
                let shared = Arc::clone(shared);
                tokio::spawn(async move { connection(shared, socket).await });
            }
        }
    }
}

fn load_version(
    shared: &WorkerContext,
    version: gannet_base::hop::VersionKey,
    descriptors: Vec<OwnedFd>,
) -> Result<(), String> {
    let mut descriptors = descriptors.into_iter();
    let (Some(component), Some(bundle)) = (descriptors.next(), descriptors.next()) else {
        return Err("a load needs two descriptors".into());
    };
    if let Ok(device) = &shared.device {
        shared.pipelines.look(device);
    }
    let loaded = load::load(&shared.engine, &shared.linker, version, component.as_fd(), bundle, descriptors)?;
    let loaded = Arc::new(loaded);
    shared.versions.lock().unwrap_or_else(PoisonError::into_inner).insert(version, Arc::clone(&loaded));
    if let Some(device) = shared.device.as_ref().ok().filter(|_| loaded.keep) {
        tokio::spawn(keep_assets(Arc::clone(device), loaded));
    }
    Ok(())
}

/// Brings a version's assets to the GPU and keeps them there, as long as the version is loaded.
async fn keep_assets(device: Arc<Device>, loaded: Arc<Loaded>) {
    for asset in loaded.inputs.assets.values() {
        match device.pin_asset(asset).await {
            Ok(kept) => loaded.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept),
            // A request brings it, or is told.
            Err(error) => tracing::warn!(%error, "an asset could not be kept on the gpu"),
        }
    }
}

/// Lets go of assets on the GPU that belong to no version any more.
fn forget_assets(shared: &WorkerContext) {
    let Ok(device) = &shared.device else { return };
    let versions = shared.versions.lock().unwrap_or_else(PoisonError::into_inner);
    let known: HashSet<&str> =
        versions.values().flat_map(|loaded| loaded.inputs.assets.values()).map(|asset| asset.digest()).collect();
    device.forget_assets(|digest| known.contains(digest));
}

async fn connection(shared: Arc<WorkerContext>, socket: OwnedFd) {
    let stream = std::os::unix::net::UnixStream::from(socket);
    let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
    let service = hyper::service::service_fn(move |request| run::request(Arc::clone(&shared), request));
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(true)
        // The front door sends what it has already checked against smaller caps.
        .max_buf_size(512 * 1024)
        .max_headers(256)
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection from the front door ended");
    }
}
