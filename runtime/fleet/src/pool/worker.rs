//! The front door's side of one worker process.
//!
//! ```text
//!  start ─▶ spawned ─▶ Ready ─▶ (spare) ─▶ load ─▶ Loaded ─▶ connections, requests
//!     any time: process ends │ malformed frame │ too much memory ─▶ killed, reaped, `dead` cancelled
//! ```
//!
//! One task reads the control socket and one reads log lines. A third waits for the process to end, and then cancels
//! the token `dead`, which everyone who uses the worker can watch.

use crate::arbiter::{Arbiter, MemberLink, Membership};
use crate::egress::{Egress, WorkerEgress};
use crate::gpus::{GpuSlot, SlotId};
use crate::logs::{Logs, VersionOwners};
use crate::pool::connection::Connection;
use crate::pool::{PoolError, error};
use gannet_base::hop::{Confinement, FromWorker, RequestProgress, ToWorker, VersionKey, WorkReport};
use gannet_base::names::{RequestId, TenantName};
use gannet_base::quota::account::{Reservation, WorkTimes};
use gannet_process::channel::{Channel, frame_pair, stream_pair};
use gannet_process::child::{EXIT_DEVICE_LOST, Role};
use gannet_process::spawn::{ChildSpec, KillOnDrop, Process, Spawner};
use gannet_state::store::files::Files;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Time limit from the spawn to the Ready message. Loading a GPU driver takes a third of a second on a good day.
const START_MAX: Duration = Duration::from_secs(30);
/// How often a worker's resident set is checked.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Size of the log socket's send buffer.
const LOG_BUFFER_BYTES: usize = 4 << 20;
/// Why a request failed whose worker ended before it had the request.
pub(super) const GONE: &str = "it ended before it had the request";
/// Most idle connections kept for a worker.
const CONNECTIONS_MAX: usize = 64;
/// How long to wait for the end of a process whose connection broke, and for a worker to read a quarantine.
const END_MAX: Duration = Duration::from_secs(1);

/// Settings that all workers are started with.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// GPU memory that a worker's tenant may take, in bytes.
    pub gpu_memory_bytes: u64,
    /// Limit on the resident memory of a worker process, in bytes. A process that exceeds it is killed.
    pub rss_bytes_max: u64,
    /// Whether a software driver computes on the pages of assets' files; see `DeviceOptions` in host-gpu.
    pub map_assets: bool,
    /// Whether a worker runs components for `wasi:http/service` 0.3.
    pub wasi_http_0_3: bool,
}

/// A report that is expected, and what counts the request's use until it comes.
#[derive(Debug)]
struct Expected {
    report: oneshot::Sender<WorkReport>,
    reservation: Arc<Reservation>,
}

/// `None` until the worker has loaded the version or failed to.
type LoadResult = Option<Result<(), String>>;

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    pub(super) process: Process,
    pub(super) control: Channel,
    pub(super) loads: Mutex<HashMap<VersionKey, watch::Sender<LoadResult>>>,
    connections: Mutex<Vec<Connection>>,
    expected_reports: Mutex<HashMap<RequestId, Expected>>,
    /// When it last sent anything, in milliseconds since `started`.
    heard_ms: AtomicU64,
    started: Instant,
    pub(super) owners: Arc<VersionOwners>,
    pub(super) dead: CancellationToken,
    confinement: Confinement,
    /// The slot of its GPU, if it has one.
    gpu: Option<SlotId>,
    /// The link that the arbiter gets when the worker gets a tenant. `None` after that. A spare does not share the GPU.
    arbiter_link: Mutex<Option<MemberLink>>,
    membership: OnceLock<Membership>,
    /// Its outbound HTTP, set when it gets a tenant.
    pub(super) outbound: OnceLock<Arc<WorkerEgress>>,
    /// Whether the socket for outbound HTTP was opened.
    pub(super) egress_open: AtomicBool,
    /// Number of requests in flight, by version.
    pub(super) active: Mutex<HashMap<VersionKey, usize>>,
    /// The time up to which the memory that it keeps was charged.
    pub(crate) charged: Mutex<Option<Instant>>,
    /// Why it ended, once that is known.
    why: OnceLock<String>,
}

impl PartialEq for Worker {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Worker {
    /// Starts a worker and waits until it is ready.
    pub async fn start(
        spawner: &Spawner,
        files: &Files,
        settings: &WorkerSettings,
        slot: &GpuSlot,
        logs: &Arc<Logs>,
    ) -> Result<Arc<Self>, PoolError> {
        let failed = |error: std::io::Error| PoolError::StartFailed(error.to_string());
        let (control, their_control) = frame_pair().map_err(failed)?;
        let (log_socket, their_logs) = frame_pair().map_err(failed)?;
        // Room for the log of a whole request, so that a burst is not lost. Without the privilege the call fails and
        // the system's own limit applies.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&their_logs, LOG_BUFFER_BYTES);
        let home = files.child_home(Role::Worker.verb().trim_start_matches('_')).map_err(failed)?;
        let arguments = vec![
            slot.gpu.as_ref().map_or_else(|| "none".to_owned(), |gpu| gpu.index.to_string()),
            settings.gpu_memory_bytes.to_string(),
            settings.wasi_http_0_3.to_string(),
            slot.class.clone(),
            settings.map_assets.to_string(),
        ];
        let (socket, their_leases) = frame_pair().map_err(failed)?;
        let notes = rustix::fs::memfd_create("notes", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let their_notes = notes.try_clone().map_err(failed)?;
        let descriptors = vec![their_control, their_logs, their_leases, their_notes];
        let spec = ChildSpec { role: Role::Worker, arguments, home, descriptors };
        let process = KillOnDrop(Some(spawner.spawn(spec).await.map_err(failed)?));
        let control = Channel::new(control).map_err(failed)?;
        let ready = tokio::time::timeout(START_MAX, control.receive::<FromWorker>()).await;
        let confinement = match ready {
            Ok(Ok((FromWorker::Ready { confinement, .. }, _))) => confinement,
            other => {
                let process = process.disarm();
                process.kill();
                let ending = process.ended().await;
                let why = match other {
                    Ok(Err(error)) => error.to_string(),
                    Ok(Ok(_)) => "it did not say Ready".to_owned(),
                    Err(_) => format!("it was not ready within {} s", START_MAX.as_secs()),
                };
                return Err(PoolError::StartFailed(format!("the worker ended with {ending}: {why}")));
            }
        };
        if !confinement.own_folder {
            tracing::warn!("a worker cannot reach its own folder, so its gpu driver has no cache");
        }
        let log_socket = Channel::new(log_socket).map_err(failed)?;
        let worker = Arc::new(Self {
            process: process.disarm(),
            control,
            loads: Mutex::default(),
            connections: Mutex::default(),
            expected_reports: Mutex::default(),
            heard_ms: AtomicU64::new(0),
            started: Instant::now(),
            owners: Arc::default(),
            dead: CancellationToken::new(),
            confinement,
            gpu: slot.gpu.as_ref().map(|_| slot.slot),
            arbiter_link: Mutex::new(Some(MemberLink { socket, notes: notes.into() })),
            membership: OnceLock::new(),
            outbound: OnceLock::new(),
            egress_open: AtomicBool::new(false),
            active: Mutex::default(),
            charged: Mutex::default(),
            why: OnceLock::new(),
        });
        tokio::spawn(Arc::clone(&worker).listen());
        tokio::spawn(Arc::clone(&worker).watch(settings.rss_bytes_max));
        tokio::spawn(crate::logs::collect(Arc::clone(logs), log_socket, Arc::clone(&worker.owners)));
        Ok(worker)
    }

    /// The confinement that is in force in it.
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// The slot of its GPU, if it has one.
    pub fn slot(&self) -> Option<SlotId> {
        self.gpu
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.process.id()
    }

    /// Binds it to the tenant that it serves from now on, and lets it use the GPU and outbound HTTP. Returns whether
    /// this is its first call; later ones do nothing.
    pub fn join(&self, arbiter: &Arc<Arbiter>, egress: &Arc<Egress>, tenant: &TenantName, weight: u32) -> bool {
        let link = self.arbiter_link.lock().unwrap_or_else(PoisonError::into_inner).take();
        let first = link.is_some();
        if first {
            // A worker has one tenant for life.
            let _ = self.outbound.set(egress.worker(tenant));
        }
        if let (Some(gpu), Some(link)) = (self.gpu, link) {
            let membership = arbiter.join(gpu, tenant, weight, link, self.process.clone());
            // The link is taken once, so this is set once.
            let _ = self.membership.set(membership);
            // If the process ended before the membership was set, `watch` could not end the membership.
            if self.dead.is_cancelled() {
                self.leave_gpu(false);
            }
        }
        first
    }

    fn leave_gpu(&self, lost: bool) {
        if let Some(membership) = self.membership.get() {
            membership.left(lost);
        }
    }

    /// Bills GPU time that the worker reports, and returns it: at most what the worker can have used.
    pub(crate) fn bill_gpu(&self, gpu_ns: u64) -> u64 {
        let Some(membership) = self.membership.get() else { return gpu_ns };
        u64::try_from(membership.bill(Duration::from_nanos(gpu_ns)).as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long it has held the GPU without that time being billed to a request. Mostly it was idle meanwhile.
    pub(crate) fn unbilled(&self) -> Duration {
        self.membership.get().map_or(Duration::ZERO, Membership::unbilled)
    }

    /// Bills and returns the GPU time, in nanoseconds, of a request whose report is lost. That is the time that the
    /// worker held the GPU without a bill, as far as the request can have caused it: `since` is when the request began,
    /// and `before` is what was unbilled when the worker got it.
    pub(crate) fn bill_lost_report(&self, since: Instant, before: Duration) -> u64 {
        let Some(membership) = self.membership.get() else { return 0 };
        let most = membership.unbilled().saturating_sub(before).min(since.elapsed());
        u64::try_from(membership.bill(most).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A token that is cancelled when the process has ended.
    pub fn dead(&self) -> &CancellationToken {
        &self.dead
    }

    /// Kills the process.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Kills the process; its in-flight requests fail with `why`.
    pub(crate) fn kill_because(&self, why: &str) {
        // The first reason is kept.
        let _ = self.why.set(why.to_owned());
        self.process.kill();
    }

    /// Returns why it ended, as text. Waits up to [`END_MAX`] for the process to end, because its connection breaks
    /// first.
    pub(crate) async fn why_ended(&self) -> String {
        // If the process does not end, only the broken connection is known.
        let _ = tokio::time::timeout(END_MAX, self.dead.cancelled()).await;
        self.why.get().cloned().unwrap_or_else(|| "it closed the connection".to_owned())
    }

    /// Whether it was killed because it did not release the GPU.
    pub(crate) fn kept_gpu(&self) -> bool {
        self.membership.get().is_some_and(Membership::overstayed)
    }

    /// Sends it the hashes of the kernels that it may not run. Kills it if it does not take them.
    pub(crate) async fn quarantine(&self, sources: HashSet<[u8; 32]>) -> Result<(), PoolError> {
        let message = ToWorker::Quarantine { sources };
        match tokio::time::timeout(END_MAX, self.control.send(&message, &[])).await {
            Ok(Ok(())) => return Ok(()),
            // A socket that is closed mostly means that the process is ending, for a reason that `watch` finds.
            Ok(Err(error)) => {
                tracing::debug!(worker = self.id(), %error, "a quarantine could not be sent");
                self.kill();
            }
            Err(_) => self.kill_because("it did not read the list of quarantined kernels"),
        }
        Err(PoolError::Killed(GONE.into()))
    }

    /// Reads messages from the control socket, and kills the process when the socket ends or a message is invalid.
    async fn listen(self: Arc<Self>) {
        loop {
            let received = self.control.receive::<FromWorker>().await;
            self.heard_ms.store(self.age_ms(), Ordering::Relaxed);
            match received {
                Ok((FromWorker::Progress { requests }, _)) => self.progress(&requests),
                Ok((FromWorker::Loaded { version, error }, _)) => {
                    let error = error.map(|text| text.chars().take(error::DETAIL_CHARACTERS_MAX).collect());
                    let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(waiting) = loads.get(&version) {
                        waiting.send_replace(Some(error.map_or(Ok(()), Err)));
                    }
                }
                Ok((FromWorker::Work { request, work }, _)) if work.unsettled => {
                    let WorkReport { guest_ns, gpu_ns, .. } = work;
                    self.progress(&[RequestProgress { request, guest_ns, gpu_ns }]);
                }
                Ok((FromWorker::Work { request, work }, _)) => {
                    let waiting = self.expected_reports.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
                    if let Some(waiting) = waiting {
                        // It fails if nobody waits any more, because the tab is closed already.
                        let _ = waiting.report.send(work);
                    }
                }
                Ok((FromWorker::Ready { .. }, _)) => break,
                Err(error) => {
                    tracing::debug!(worker = self.id(), %error, "the control socket ended");
                    break;
                }
            }
        }
        self.kill();
    }

    /// Kills the process if it takes too much memory, and cleans up after it has ended.
    async fn watch(self: Arc<Self>, rss_bytes_max: u64) {
        let ended = self.process.ended();
        tokio::pin!(ended);
        let lost = loop {
            tokio::select! {
                ending = &mut ended => {
                    tracing::info!(worker = self.id(), %ending, "a worker ended");
                    let why = match ending.code {
                        _ if self.kept_gpu() => "it kept the gpu when it was asked back, and its kernel is quarantined \
                            until the function is deployed again".to_owned(),
                        _ if self.process.ran_out_of_memory() => {
                            format!("it took more than the {rss_bytes_max} bytes of memory that a worker may have")
                        }
                        Some(EXIT_DEVICE_LOST) => "the gpu device was lost".to_owned(),
                        _ => format!("it ended with {ending}"),
                    };
                    let _ = self.why.set(why);
                    break ending.code == Some(EXIT_DEVICE_LOST);
                }
                () = tokio::time::sleep(WATCH_EVERY) => {
                    let resident = rss_bytes(self.id());
                    if resident > rss_bytes_max {
                        tracing::warn!(worker = self.id(), resident, rss_bytes_max, "a worker takes too much memory");
                        self.kill_because(&format!("it took {resident} bytes of memory; the limit is {rss_bytes_max}"));
                    }
                }
            }
        };
        // In this order, because a `join` that runs after this sees that the worker is dead and leaves the GPU itself.
        self.dead.cancel();
        self.leave_gpu(lost);
        self.expected_reports.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns an idle connection, or a new one.
    pub(crate) async fn connection(&self) -> Result<Connection, PoolError> {
        loop {
            let idle = self.connections.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(mut connection) => {
                    if connection.ready().await {
                        return Ok(connection);
                    }
                }
                None => break,
            }
        }
        let failed = |error: std::io::Error| PoolError::Internal(format!("cannot connect to the worker: {error}"));
        let (ours, theirs) = stream_pair().map_err(failed)?;
        self.control.send(&ToWorker::Connect, &[theirs.as_fd()]).await.map_err(|_| PoolError::Killed(GONE.into()))?;
        drop(theirs);
        Connection::new(ours).map_err(failed)
    }

    /// Takes back a connection whose response has been read to its end, for the next request.
    pub(crate) fn give_back(&self, mut connection: Connection) {
        let mut idle = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS_MAX && !self.dead.is_cancelled() && connection.take_end() {
            idle.push(connection);
        }
    }

    /// Returns the receiver of a request's report, if it arrives as a frame. What the worker says about the request until
    /// then is counted on `reservation`.
    pub(crate) fn expect_report(
        &self,
        request: RequestId,
        reservation: Arc<Reservation>,
    ) -> oneshot::Receiver<WorkReport> {
        let (report, receiver) = oneshot::channel();
        let expected = Expected { report, reservation };
        self.expected_reports.lock().unwrap_or_else(PoisonError::into_inner).insert(request, expected);
        receiver
    }

    fn progress(&self, requests: &[RequestProgress]) {
        let expected = self.expected_reports.lock().unwrap_or_else(PoisonError::into_inner);
        for RequestProgress { request, guest_ns, gpu_ns } in requests {
            if let Some(expected) = expected.get(request) {
                expected.reservation.progress(WorkTimes { gpu_ns: *gpu_ns, guest_ns: *guest_ns });
            }
        }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns how long it has sent nothing. While a request runs for longer, it tells its progress.
    pub(crate) fn silent(&self) -> Duration {
        Duration::from_millis(self.age_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)))
    }

    /// Tells it to end a request. Does nothing if the worker has ended.
    pub(crate) async fn stop(&self, request: RequestId) {
        let message = ToWorker::Stop { request };
        if let Ok(Err(error)) = tokio::time::timeout(END_MAX, self.control.send(&message, &[])).await {
            tracing::debug!(%error, "a worker could not be told to end a request");
        }
    }

    /// Stops expecting the report of a request.
    pub(crate) fn forget_report(&self, request: RequestId) {
        self.expected_reports.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
    }
}

/// Resident set of a process in bytes; 0 if it cannot be read.
fn rss_bytes(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
