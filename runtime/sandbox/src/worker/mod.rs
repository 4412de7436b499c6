//! The worker: one tenant's code and one GPU device, in a process of its own.
//!
//! ```text
//!  confine ▶ open device ▶ engine ▶ threads ▶ seccomp ▶ Ready
//!                                                     │ Load(version)  ▶ version ▶ Loaded
//!  control socket ────────────────────────────────────┤ Connect(socket) ▶ serve requests on it
//!                                                     └ closed          ▶ exit at once
//!  each request: a fresh instance ▶ guest runs, metered ▶ response, receipt
//! ```
//!
//! In: frames from the front door. Out: responses, receipts, log lines. It has no network, no store and no
//! file but its own folder. It ends by `exit`, never by dropping the device, because that would wait for the GPU
//! without a limit.
//!
//! The modules are in the order in which a version and then a request use them.

mod warm_up;
mod context;
mod control;
mod driver_cache;
mod version;
mod body_end;
mod connection;
mod request;
mod request_limits;
mod request_body;
mod usage;
mod running_requests;
mod instance;
mod running_guest;
mod guest_setup;
mod idle_instances;
mod preparation_limit;
mod preparation;
mod cpu_time;
mod epoch_ticker;
mod wasi_http_0_2;
mod wasi_http_0_3;
mod trap;
mod response;

use crate::guest::linker;
use crate::guest::log::LogSink;
use crate::{arbiter_link, engine};
use context::WorkerContext;
use driver_cache::DriverCacheFiles;
use epoch_ticker::EpochTicker;
use gannet_base::hop::FromWorker;
use gannet_base::manifest::INSTANCES_MAX;
use gannet_base::siblings::CALLS_MAX;
use gannet_host_gpu::device::DeviceOptions;
use gannet_host_gpu::{ArbiterLink, Device};
use gannet_process::channel::Channel;
use gannet_process::child::Child;
use gannet_process::confine;
use gannet_process::hop_socket::Exchanges;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// Opens what a worker must open before it is confined.
pub fn open_own_files() {
    engine::open_page_map();
}

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
    let epoch_ticker = Arc::new(EpochTicker::start(&engine)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    confine::after_drivers(&mut confinement).map_err(io::Error::other)?;
    if let Ok(device) = &device
        && let Err(error) = device.warm()
    {
        tracing::warn!(%error, "the gpu driver could not be warmed up");
    }
    runtime.block_on(async move {
        warm_up::run(&engine).await.map_err(io::Error::other)?;
        let worker = Arc::new(WorkerContext {
            engine,
            epoch_ticker,
            linker,
            exchanges: Exchanges::default(),
            running: Arc::default(),
            versions: Mutex::default(),
            instance_permits: Arc::new(Semaphore::new(INSTANCES_MAX as usize)),
            call_permits: Arc::new(Semaphore::new(CALLS_MAX as usize)),
            idle_instances: Arc::default(),
            control: Channel::new(control)?,
            log_sink: Arc::new(LogSink::new(logs)),
            outbound: Arc::default(),
            driver_cache: DriverCacheFiles::new(home),
            device,
        });
        if let Ok(device) = &worker.device {
            let idle_instances = Arc::downgrade(&worker.idle_instances);
            device.on_memory_pressure(move || idle_instances.upgrade().is_some_and(|idle| idle.evict_oldest_on_gpu()));
        }
        let gpu = worker.device.as_ref().ok().map(|device| device.gpu().name.clone());
        worker.control.send(&FromWorker::Ready { confinement, gpu }, &[]).await.map_err(io::Error::other)?;
        tokio::spawn(control::tell_progress(Arc::clone(&worker)));
        control::serve(&worker).await;
        // The front door has exited, or has sent something invalid. Nothing here needs to be saved.
        gannet_process::child::exit_now(0);
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
