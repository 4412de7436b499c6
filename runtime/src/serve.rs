//! `gannet serve`: puts the parts together, says that it is ready, and ends in order.

use crate::admit::{Admit, Node, Strangers};
use crate::arbiter::turns::Timing;
use crate::arbiter::{self, Arbiter, Overstayed, Shared};
use crate::auth::{Auth, KEY_PREFIX, hash};
use crate::build::Builder;
use crate::config::{self, ConfigError, Live, ServerFile};
use crate::control::keys::new_key;
use crate::control::{Control, functions};
use crate::egress::Egress;
use crate::front::{AccessLog, Front, Tls};
use crate::gpus::{self, Served};
use crate::inbound::Door;
use crate::limits::LimitsChoice;
use crate::logs::Logs;
use crate::meter::{Ledger, LedgerError};
use crate::names::TenantName;
use crate::pool::worker::WorkerSettings;
use crate::pool::{Beside, Pool};
use crate::process::spawn::Spawner;
use crate::process::{confine_check, probe};
use crate::registry::{NewKey, Registry};
use crate::route::Route;
use crate::secrets::{SecretsError, Vault};
use crate::store::audit::FORGOTTEN_AT_ONCE;
use crate::store::{Store, StoreError, files};
use arc_swap::ArcSwap;
use gannet_host_gpu::Gpu;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
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
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Secrets cannot be opened.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
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

/// How often the server does what need not be done at once.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);
/// Requests that may wait for a place of the server, at least.
const WAITING_MIN: usize = 1024;
/// How long the end of the server waits for the ledger.
const FLUSH_MAX: Duration = Duration::from_secs(10);

/// Everything that was there before and that the server stands on.
struct Ground {
    store: Arc<Store>,
    registry: Arc<Registry>,
    ledger: Arc<Ledger>,
    vault: Vault,
}

/// Opens the data folder.
fn open(options: &ServeOptions, file: &ServerFile) -> Result<Ground, ServeError> {
    let compatibility = crate::engine::compatibility(file.wasi_http_0_3).map_err(failed)?;
    let (store, mut contents) = Store::open(&options.data, &compatibility)?;
    if !options.dev {
        // The folder may have served --dev before; everybody knows that key.
        contents.keys.remove(&hash(DEV_KEY));
    }
    let store = Arc::new(store);
    let operator = operator_key(store.files().data())?;
    let vault = Vault::open(store.files().data(), file.secrets_key_file.as_ref())?;
    let (ledger, by_day) = Ledger::open(Arc::clone(&store), file.retention.ledger_days)?;
    let (defaults, kept) = (file.tenant_limits(), file.retention.versions);
    let registry = Arc::new(Registry::new(Arc::clone(&store), contents, hash(&operator), defaults, kept));
    registry.count_used(&by_day);
    Ok(Ground { store, registry, ledger, vault })
}

/// Serves until a signal. `ready` is told the address once requests are answered.
pub async fn serve(options: ServeOptions, ready: impl FnOnce(&str)) -> Result<(), ServeError> {
    // Taken before anything starts: a signal from here on ends the server in order.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    raise_file_limit();
    let file = options.config.as_deref().map(config::read).transpose()?.unwrap_or_default();
    let address = options.listen.or(file.listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7070)));
    for address in std::iter::once(address).chain(file.admin_listen) {
        if options.dev && !address.ip().is_loopback() {
            return Err(ConfigError::DevBeyondLoopback(address).into());
        }
    }
    let Ground { store, registry, ledger, vault } = open(&options, &file)?;
    let spawner = Spawner::start(file.worker_memory_mib << 20).map_err(failed)?;
    if !spawner.has_cgroups() {
        tracing::info!("no control groups can be made: children are bounded by resource limits and watched");
    }
    check_confinement(&spawner, &store, &options).await?;
    let places = Arc::new(gpus::places(&find_gpus(&spawner, &store).await, &file)?);
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
        dev_tenant(&registry).await?;
    }
    let logs = Arc::new(Logs::default());
    let (arbiter, overstayed) = share(&places, &file, &spawner, &store)?;
    let live: Live = Arc::new(ArcSwap::from_pointee(file.clone()));
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
        map_assets: file.map_assets,
    };
    let vault = Arc::new(vault);
    let egress = Egress::new(Arc::clone(&live), Arc::clone(&registry)).map_err(failed)?;
    let beside = Beside {
        vault: Arc::clone(&vault),
        egress,
        logs: Arc::clone(&logs),
        ledger: Arc::clone(&ledger),
        live: Arc::clone(&live),
    };
    let pool = Pool::start(
        spawner,
        Arc::clone(&registry),
        Arc::clone(&builder),
        Arc::clone(&arbiter),
        settings,
        Arc::clone(&places),
        beside,
    );
    tokio::spawn(quarantine(Arc::clone(&registry), pool.clone(), overstayed));
    registry
        .snapshot()
        .tenants
        .keys()
        .filter(|tenant| store.files().has_assets(tenant))
        .for_each(|tenant| registry.sweep_assets(tenant));
    functions::warm(&registry.snapshot(), &pool, None);
    let control = Control {
        registry: Arc::clone(&registry),
        builder,
        pool: pool.clone(),
        ledger: Arc::clone(&ledger),
        logs,
        places,
        arbiter,
        vault,
        live: Arc::clone(&live),
        uploading: Default::default(),
        own_url: url.clone(),
        dev: options.dev,
    };
    let strangers = Arc::new(Strangers::default());
    let node = Node::new(file.requests_max, file.requests_max.max(WAITING_MIN));
    let admit = Admit::new(node, Arc::clone(&ledger), Arc::clone(&live), Arc::clone(&strangers), pool.clone());
    let route = Route::new(control, Arc::clone(&live), admit);
    let auth = Auth::new(Arc::clone(&registry), strangers, Arc::clone(&live), route);
    let front = Front::new(auth, Arc::clone(&live), tls.clone(), access, options.dev);
    let stop = CancellationToken::new();
    tokio::spawn(housekeep(Arc::clone(&registry), Arc::clone(&live), stop.clone()));
    tokio::spawn(reload(options.config.clone(), live, Arc::clone(&registry), tls, stop.clone()));
    let drain = Duration::from_secs(file.drain_s);
    let door = if admin.is_some() { Door::Functions } else { Door::Only };
    let mut serving = JoinSet::new();
    serving.spawn(Arc::clone(&front).serve(listener, door, stop.clone(), drain));
    if let Some(admin) = admin {
        let address = admin.local_addr().map_err(failed)?;
        tracing::info!("the control API listens on {scheme}://{address}");
        serving.spawn(front.serve(admin, Door::Admin, stop.clone(), drain));
    }
    ready(&url);

    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("draining");
    stop.cancel();
    tokio::select! {
        _ = async { while serving.join_next().await.is_some() {} } => {}
        _ = terminate.recv() => tracing::warn!("a second signal: leaving now"),
        _ = interrupt.recv() => tracing::warn!("a second signal: leaving now"),
    }
    pool.drain();
    if let Err(error) = registry.keep_last_used().await {
        tracing::warn!(%error, "when keys were last used could not be kept");
    }
    // Every other commit was synced before it was acknowledged.
    let flushed = tokio::task::spawn_blocking(move || ledger.flush(FLUSH_MAX)).await;
    flushed.map_err(failed)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|cause| ServeError::Listen { address, cause })
}

/// Does what need not be done at once: keeps when keys were last used, forgets old entries of the audit log.
async fn housekeep(registry: Arc<Registry>, live: Live, stop: CancellationToken) {
    let mut minutes = 0_u32;
    while tokio::time::timeout(HOUSEKEEPING_EVERY, stop.cancelled()).await.is_err() {
        minutes = minutes.wrapping_add(1);
        if let Err(error) = registry.keep_last_used().await {
            tracing::warn!(%error, "when keys were last used could not be kept");
        }
        // All entries are looked at.
        if minutes % 60 != 1 {
            continue;
        }
        let days = i64::try_from(live.load().retention.audit_days).unwrap_or(i64::MAX);
        let age = jiff::SignedDuration::from_hours(days.saturating_mul(24).min(24 * 366 * 1000));
        let Ok(before) = jiff::Timestamp::now().checked_sub(age) else { continue };
        let store = Arc::clone(registry.store());
        let forgotten = tokio::task::spawn_blocking(move || {
            while store.forget_audit(before)? >= FORGOTTEN_AT_ONCE {}
            Ok::<_, StoreError>(())
        })
        .await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(%error, "old entries of the audit log could not be removed");
        }
    }
}

/// Reads the file again at each SIGHUP: all of it or nothing. A server without one goes on as it is.
async fn reload(
    path: Option<PathBuf>,
    live: Live,
    registry: Arc<Registry>,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!(%error, "no reload on SIGHUP"),
    };
    while tokio::select! { hung = hangup.recv() => hung.is_some(), () = stop.cancelled() => false } {
        let Some(read) = path.clone() else {
            tracing::warn!("SIGHUP, but there is no file to read: the server was started without --config");
            continue;
        };
        let next = match tokio::task::spawn_blocking(move || config::read(&read)).await {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => {
                for error in error.each() {
                    tracing::error!(%error, "the file cannot be used; nothing was changed");
                }
                continue;
            }
            Err(_) => continue,
        };
        let old = live.load_full();
        if let Err(error) = registry.set_defaults(next.tenant_limits(), next.retention.versions).await {
            tracing::error!(%error, "the file could not be put into force");
            continue;
        }
        let waits = old.restart_needed(&next);
        live.store(Arc::new(next));
        if let Some(tls) = &tls {
            tls.reload();
        }
        let waits = if waits.is_empty() { "nothing".to_owned() } else { waits.join(", ") };
        tracing::info!(needs_a_restart = waits, "the file was read again and is in force");
    }
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
    Arbiter::start(&shared.collect::<Vec<_>>(), probe).map_err(failed)
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

async fn dev_tenant(registry: &Arc<Registry>) -> Result<(), ServeError> {
    let name = TenantName::new(DEV_TENANT).map_err(failed)?;
    if registry.snapshot().tenants.contains_key(&name) {
        return Ok(());
    }
    // Whoever develops wants to try `scale.min` too.
    let limits = LimitsChoice {
        resident_gpu_mib: Some(1 << 20),
        requests_per_s: Some(1_000_000),
        requests_burst: Some(1_000_000),
        ..LimitsChoice::default()
    };
    registry.create_tenant(&name, NewKey::full(hash(DEV_KEY)), limits).await.map_err(failed).map(drop)
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
