//! `gannet serve`: puts the parts together, says that it is ready, and ends in order.

use crate::admit::Admit;
use crate::arbiter::turns::Timing;
use crate::arbiter::{self, Arbiter, Overstayed, Shared};
use crate::auth::{Auth, KEY_PREFIX, hash};
use crate::build::Builder;
use crate::config::{ConfigError, ServerFile};
use crate::control::tenants::new_key;
use crate::control::{Control, functions};
use crate::front::Front;
use crate::gpus::{self, Served};
use crate::logs::Logs;
use crate::meter::Book;
use crate::names::TenantName;
use crate::pool::Pool;
use crate::pool::worker::WorkerSettings;
use crate::process::spawn::Spawner;
use crate::process::{confine_check, probe};
use crate::registry::Registry;
use crate::route::Route;
use crate::store::{Store, StoreError, files};
use gannet_host_gpu::Gpu;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The tenant and key of a development server.
pub const DEV_TENANT: &str = "dev";
/// Known to everybody, hence only on loopback.
pub const DEV_KEY: &str = "gnt_dev_local";
/// A shorter key of the operator's own choice could be guessed. Its prefix keeps it from being taken for a
/// function's own authorization.
const OPERATOR_KEY_BYTES_MIN: usize = 32;
/// How long a holder keeps a GPU while others wait.
const QUANTUM: Duration = Duration::from_millis(10);
/// How long it may take to give it back: two slices, or a workgroup that runs to the end of its budget.
const GRACE: Duration = Duration::from_millis(100);
/// The same on a software driver, whose work competes with everything else for the processor.
const SOFTWARE_GRACE: Duration = Duration::from_secs(10);
/// Two of its slices must fit, whatever the file says.
const SOFTWARE_GRACE_MIN: Duration = Duration::from_secs(1);
/// How long a GPU rests after a failed probe.
const CORDON: Duration = Duration::from_secs(1);

/// What `gannet serve` was asked for.
#[derive(Debug)]
pub struct ServeOptions {
    /// Address; port 0 picks one.
    pub listen: Option<SocketAddr>,
    /// Data folder.
    pub data: PathBuf,
    /// Configuration file.
    pub config: Option<PathBuf>,
    /// Development server.
    pub dev: bool,
    /// Serve even when a layer of confinement is missing.
    pub allow_unconfined: bool,
}

/// Why the server could not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// A layer of confinement is missing.
    #[error("children cannot be confined: {missing} missing")]
    Unconfined {
        /// Which.
        missing: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> ServeError {
    ServeError::Failed(error.to_string())
}

/// The operator's key: from the environment, or made at the first start and kept.
fn operator_key(data: &Path) -> Result<String, ServeError> {
    if let Ok(key) = std::env::var("GANNET_OPERATOR_KEY")
        && !key.is_empty()
    {
        if !key.starts_with(KEY_PREFIX) || key.len() < OPERATOR_KEY_BYTES_MIN {
            return Err(failed(format!(
                "GANNET_OPERATOR_KEY must start with {KEY_PREFIX} and have at least {OPERATOR_KEY_BYTES_MIN} characters"
            )));
        }
        return Ok(key);
    }
    let path = data.join("operator.key");
    match std::fs::read_to_string(&path) {
        Ok(key) => Ok(key.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = new_key("operator").map_err(failed)?;
            files::write_durably(&path, format!("{key}\n").as_bytes(), 0o600).map_err(failed)?;
            Ok(key)
        }
        Err(error) => Err(failed(format!("{}: {error}", path.display()))),
    }
}

/// Each connection and each worker takes descriptors; the usual soft limit of 1024 is soon used up.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Serves until a signal. `ready` is told the address once requests are answered.
pub async fn serve(options: ServeOptions, ready: impl FnOnce(&str)) -> Result<(), ServeError> {
    // Taken before anything starts: a signal from here on ends the server in order.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    raise_file_limit();
    let file = options.config.as_deref().map(ServerFile::read).transpose()?.unwrap_or_default();
    let address = options.listen.or(file.listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7070)));
    if options.dev && !address.ip().is_loopback() {
        return Err(ConfigError::DevBeyondLoopback(address).into());
    }
    let compatibility = crate::engine::compatibility(file.wasi_http_0_3).map_err(failed)?;
    let (store, mut contents) = Store::open(&options.data, &compatibility)?;
    if !options.dev {
        // The folder may have served --dev before; everybody knows that key.
        contents.keys.remove(&hash(DEV_KEY));
    }
    let store = Arc::new(store);
    let operator = operator_key(store.files().data())?;
    let spawner = Spawner::start().map_err(failed)?;
    check_confinement(&spawner, &store, &options).await?;
    let places = Arc::new(gpus::places(&find_gpus(&spawner, &store).await, &file)?);
    let listener = TcpListener::bind(address).await.map_err(|cause| ServeError::Listen { address, cause })?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);

    let registry = Arc::new(Registry::new(Arc::clone(&store), contents, hash(&operator)));
    if options.dev {
        dev_tenant(&registry).await?;
    }
    let book = Arc::new(Book::open(store.files().data().to_owned()).map_err(failed)?);
    let logs = Arc::new(Logs::default());
    let (arbiter, overstayed) = share(&places, &file, &spawner, &store)?;
    let builder = Builder::new(
        spawner.clone(),
        Arc::clone(&store),
        Arc::clone(&arbiter),
        Arc::clone(&places),
        file.wasi_http_0_3,
    );
    let settings = WorkerSettings {
        gpu_memory_bytes: file.tenant_gpu_memory_mib << 20,
        resident_bytes_max: file.worker_memory_mib << 20,
        wasi_http_0_3: file.wasi_http_0_3,
    };
    let pool = Pool::start(
        spawner,
        Arc::clone(&registry),
        Arc::clone(&logs),
        Arc::clone(&builder),
        Arc::clone(&arbiter),
        settings,
        Arc::clone(&places),
    );
    tokio::spawn(quarantine(Arc::clone(&registry), pool.clone(), overstayed));
    functions::warm(&registry.snapshot(), &pool, None);
    let control = Control {
        registry: Arc::clone(&registry),
        builder,
        pool: pool.clone(),
        book: Arc::clone(&book),
        logs,
        places,
        arbiter,
        component_bytes_max: file.component_mib_max << 20,
        public_url: url.clone(),
    };
    let front = Front::new(Auth::new(registry, Route::new(control, Admit::new(book, pool.clone()))), options.dev);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(front.serve(listener, stop.clone(), Duration::from_secs(file.drain_s)));
    ready(&url);

    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("draining");
    stop.cancel();
    tokio::select! {
        _ = serving => {}
        _ = terminate.recv() => tracing::warn!("a second signal: leaving now"),
        _ = interrupt.recv() => tracing::warn!("a second signal: leaving now"),
    }
    pool.drain();
    // Every commit was synced before it was acknowledged: there is nothing left to flush.
    Ok(())
}

/// Starts the arbiter of the GPUs.
fn share(
    places: &[Served],
    file: &ServerFile,
    spawner: &Spawner,
    store: &Store,
) -> Result<(Arc<Arbiter>, mpsc::Receiver<Overstayed>), ServeError> {
    let shared = places.iter().filter_map(|served| {
        let (usual, least) =
            if served.gpu.as_ref()?.software { (SOFTWARE_GRACE, SOFTWARE_GRACE_MIN) } else { (GRACE, Duration::ZERO) };
        let grace = file.lease_grace_ms.map_or(usual, Duration::from_millis).max(least);
        Some(Shared { gpu: served.place, timing: Timing { quantum: QUANTUM, grace, cordon: CORDON } })
    });
    let indexes: Vec<Option<u32>> = places.iter().map(|served| Some(served.gpu.as_ref()?.index)).collect();
    let (spawner, run_folder) = (spawner.clone(), store.files().run());
    let probe: arbiter::Probe = Box::new(move |place| {
        let (spawner, run_folder) = (spawner.clone(), run_folder.clone());
        let gpu = indexes.get(place).copied().flatten();
        Box::pin(async move {
            let Some(gpu) = gpu else { return false };
            let tried = probe::try_gpu(&spawner, &run_folder, gpu).await;
            tried.inspect_err(|error| tracing::error!(gpu, %error, "a gpu failed its probe")).is_ok()
        })
    });
    Arbiter::start(&shared.collect::<Vec<_>>(), file.gpu_weights.clone(), probe).map_err(failed)
}

/// Keeps kernels that kept a GPU from running again.
async fn quarantine(registry: Arc<Registry>, pool: Pool, mut overstayed: mpsc::Receiver<Overstayed>) {
    while let Some(Overstayed { tenant, kernels }) = overstayed.recv().await {
        if let Err(error) = registry.quarantine(&tenant, &kernels).await {
            tracing::error!(%tenant, %error, "a quarantine could not be kept");
        }
        pool.push_quarantine(&tenant).await;
    }
}

async fn dev_tenant(registry: &Registry) -> Result<(), ServeError> {
    let name = TenantName::new(DEV_TENANT).map_err(failed)?;
    if registry.snapshot().tenants.contains_key(&name) {
        return Ok(());
    }
    registry.create_tenant(&name, hash(DEV_KEY), "local".to_owned()).await.map_err(failed)
}

async fn check_confinement(spawner: &Spawner, store: &Store, options: &ServeOptions) -> Result<(), ServeError> {
    let data = store.files().data();
    let missing = match confine_check::ask(spawner, data, &store.files().run()).await {
        Ok(findings) => {
            let open = findings.attempts.iter().filter(|attempt| !attempt.refused).map(|attempt| attempt.what.clone());
            let missing = findings.confinement.missing().into_iter().map(str::to_owned);
            missing.chain(open.map(|what| format!("a child can {what}:"))).collect::<Vec<_>>().join(", ")
        }
        Err(error) => error.to_string(),
    };
    if missing.is_empty() {
        return Ok(());
    }
    tracing::warn!(missing, "children are not fully confined");
    if options.dev || options.allow_unconfined { Ok(()) } else { Err(ServeError::Unconfined { missing }) }
}

async fn find_gpus(spawner: &Spawner, store: &Store) -> Vec<Gpu> {
    match probe::list(spawner, &store.files().run()).await {
        Ok(gpus) => {
            for gpu in &gpus {
                tracing::info!(name = gpu.name, class = gpu.class, driver = gpu.driver, "gpu found");
            }
            if gpus.is_empty() {
                tracing::warn!("no gpu was found; functions without kernels still run");
            }
            gpus
        }
        Err(error) => {
            tracing::error!(%error, "no gpu can be used");
            Vec::new()
        }
    }
}
