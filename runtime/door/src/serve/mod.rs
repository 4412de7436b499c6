//! `gannet serve`: starts the server, reports when it is ready, serves until a signal, and shuts down in order.

mod assemble;
mod confinement;
mod gpus;
mod housekeeping;
mod options;
mod recovered;

pub use housekeeping::errors_of_named_files;
pub use options::{ServeError, ServeOptions};
pub use recovered::{DEV_KEY, DEV_TENANT};

use crate::front::{AccessLog, Front, Tls};
use gannet_fleet::gpus::slots;
use gannet_fleet::inbound::ListenerRole;
use gannet_process::spawn::Spawner;
use gannet_state::config::{self, ConfigError};
use housekeeping::{housekeep, reload, watch_space};
use options::failed;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Raises the soft limit of open files to the hard one. Each connection and each worker takes descriptors, and the
/// usual soft limit of 1024 is soon used up.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Lets the system's killer choose almost any other process when the machine's memory runs out. Without the privilege it
/// still chooses a child of this server first, because children ask for that.
fn lower_oom_score() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        tracing::debug!(%error, "the server could not be put behind others for the system's killer");
    }
}

/// How long shutdown waits for the ledger.
const FLUSH_MAX: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT. Calls `ready` with the server's URL once requests are served.
pub async fn serve(options: ServeOptions, ready: impl FnOnce(&str)) -> Result<(), ServeError> {
    // Installed before anything starts, so that a signal from here on shuts the server down in order.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    raise_file_limit();
    lower_oom_score();
    let file = options.config.as_deref().map(config::read).transpose()?.unwrap_or_default();
    let address = options.listen.or(file.listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7070)));
    for address in std::iter::once(address).chain(file.admin_listen) {
        if options.dev && !address.ip().is_loopback() {
            return Err(ConfigError::DevBeyondLoopback(address).into());
        }
    }
    let recovered = recovered::open(&options, &file)?;
    let (store, registry, ledger) =
        (Arc::clone(&recovered.store), Arc::clone(&recovered.registry), Arc::clone(&recovered.ledger));
    let spawner = Spawner::start(file.worker_memory_mib << 20).map_err(failed)?;
    if !spawner.has_cgroups() {
        tracing::info!("no control groups can be made: children are bounded by resource limits and a watchdog");
    }
    confinement::check(&spawner, &store, &options).await?;
    let slots = slots(&gpus::find_gpus(&spawner, &store).await, &file);
    let slots = Arc::new(slots.map_err(|error| error.in_file(options.config.as_deref()))?);
    let tls = file.tls.clone().map(Tls::start).transpose().map_err(failed)?;
    let access = file.logs.access.as_deref().map(AccessLog::open).transpose().map_err(failed)?;
    let listener = listen(address).await?;
    let admin = match file.admin_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().map_err(failed)?);
    if options.dev {
        recovered::dev_tenant(&registry).await?;
    }
    let steps = assemble::assemble(recovered, &file, spawner, slots, &url, options.dev).await?;
    let (live, pool, arbiter) = (Arc::clone(&steps.live), steps.pool.clone(), Arc::clone(&steps.control.arbiter));
    let jobs = steps.jobs.clone();
    let front = Front::new(steps, tls.clone(), access);
    let stop = CancellationToken::new();
    tokio::spawn(housekeep(Arc::clone(&registry), Arc::clone(&live), stop.clone()));
    tokio::spawn(watch_space(Arc::clone(&ledger), store, Arc::clone(&live), stop.clone()));
    let served = (Arc::clone(&registry), pool.clone(), arbiter);
    tokio::spawn(reload(options.config.clone(), live, served, tls, stop.clone()));
    let drain = Duration::from_secs(file.drain_s);
    let address = if admin.is_some() { ListenerRole::Functions } else { ListenerRole::Only };
    let mut serving = JoinSet::new();
    serving.spawn(Arc::clone(&front).serve(listener, address, stop.clone(), drain));
    if let Some(admin) = admin {
        let address = admin.local_addr().map_err(failed)?;
        tracing::info!("the control API listens on {scheme}://{address}");
        serving.spawn(front.serve(admin, ListenerRole::Admin, stop.clone(), drain));
    }
    ready(&url);

    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("draining");
    stop.cancel();
    tokio::select! {
        _ = async {
            // New calls are refused first, so that no job is submitted that nobody starts.
            let drained = jobs.drain(drain);
            tokio::join!(drained, async { while serving.join_next().await.is_some() {} });
        } => {}
        _ = terminate.recv() => tracing::warn!("a second signal: leaving now"),
        _ = interrupt.recv() => tracing::warn!("a second signal: leaving now"),
    }
    pool.drain();
    if let Err(error) = registry.persist_last_used(None).await {
        tracing::warn!(%error, "the times at which keys were last used could not be stored");
    }
    // Only the ledger needs this: every other commit was synced before it was acknowledged.
    let flushed = tokio::task::spawn_blocking(move || ledger.flush(FLUSH_MAX)).await;
    flushed.map_err(failed)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|cause| ServeError::Listen { address, cause })
}
