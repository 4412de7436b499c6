//! Outbound HTTP of functions. A worker has no network. It sends its calls here, over HTTP/2 on a socketpair of its
//! own.
//!
//! ```text
//!  guest ─▶ worker ──h2──▶ [`WorkerEgress`] of the worker: is the request in flight, does its version list the host?
//!     ─▶ the tenant's limits ─▶ a connection that an earlier call left, if its address may still be reached
//!                               else resolve ─▶ every address checked ─▶ connect to that address ─▶ TLS
//!     ─▶ HTTP/1.1 or HTTP/2
//!     ◀─ head without hop-by-hop headers ◀─ body, counted, limited in size and time
//! ```
//!
//! The server's own messages (`post`) go out by the same rules. Two kinds of calls come over the same socket and do not go
//! out: those of other functions of the tenant ([`siblings`]), and those of the platform (`platform`).
//!
//! The socket determines the tenant of a call. The version and the request that the call names must be the worker's
//! own. Redirects are passed to the function. A refusal is a response with
//! [`header::FAULT`] and an
//! [`OutboundError`](gannet_base::hop::outbound::OutboundError).
//!
//! Invariant: the address that was checked is the address that is connected to.

pub mod address;
mod body;
mod call;
mod connect;
mod connection;
mod idle;
mod platform;
mod post;
pub mod siblings;
mod target;

pub use platform::{Platform, PlatformCaller, Turn};
pub use post::{Posted, is_postable};

use crate::calling::CallingRequest;
use connect::Lookups;
use connection::{ALPN_HTTP1, ALPN_HTTP2};
use gannet_base::allowed_hosts::AllowedHost;
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::hop::outbound::{HEAD_BYTES_MAX, SOCKET_STREAMS, SOCKET_WINDOW};
use gannet_base::hop::{VersionKey, header};
use gannet_base::names::{RequestId, TenantName};
use gannet_state::config::LiveConfig;
use gannet_state::registry::{Registry, Version};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use idle::IdleConnections;
use platform::PlatformCalls;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use siblings::{RunningCall, RunningCalls, SiblingCalls, WorkerFullOfCalls};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

/// Lets one request send outbound HTTP and call siblings until this is dropped.
#[derive(Debug)]
pub struct EgressGrant {
    worker: Weak<WorkerEgress>,
    request: Arc<CallingRequest>,
    _running: Option<RunningCall>,
}

impl EgressGrant {
    /// Counts the calls and bytes of the request.
    pub fn counter(&self) -> &Arc<OutboundUse> {
        self.request.used()
    }

    /// The request, as its calls see it.
    pub fn request(&self) -> &CallingRequest {
        &self.request
    }
}

impl Drop for EgressGrant {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.upgrade() {
            worker.requests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.request.id());
        }
        self.request.ended().cancel();
    }
}

/// What one worker may call: the allowed hosts of its loaded versions, for the requests that it runs.
#[derive(Debug)]
pub struct WorkerEgress {
    egress: Arc<Egress>,
    tenant: TenantName,
    lookups: Lookups,
    versions: Mutex<HashMap<VersionKey, Vec<AllowedHost>>>,
    requests: Mutex<HashMap<RequestId, Arc<CallingRequest>>>,
    calls: Arc<RunningCalls>,
}

impl WorkerEgress {
    /// Allows requests of a version to call the hosts in its manifest.
    pub fn allow_version(&self, version: &Version) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.insert(version.key, version.allowed_hosts.clone());
    }

    /// Removes the allowed hosts of a version that the worker unloads.
    pub fn forget(&self, version: VersionKey) {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(&version);
    }

    /// Lets a request call out while the returned grant is held. A call by another function counts among the calls that
    /// run in the worker, and is refused if those are too many.
    pub fn register(self: &Arc<Self>, request: CallingRequest) -> Result<EgressGrant, WorkerFullOfCalls> {
        let running = (request.depth() > 0).then(|| self.calls.begin(request.depth())).transpose()?;
        let request = Arc::new(request);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).insert(request.id(), Arc::clone(&request));
        Ok(EgressGrant { worker: Arc::downgrade(self), request, _running: running })
    }

    /// Whether a request of this depth would be registered now.
    pub fn has_room_at(&self, depth: u8) -> bool {
        depth == 0 || self.calls.has_room_at(depth)
    }

    fn allows(&self, version: VersionKey, https: bool, host: &str, port: u16) -> bool {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.get(&version).is_some_and(|hosts| hosts.iter().any(|known| known.allows(https, host, port)))
    }

    /// Returns a request in flight; `None` if the request is not registered.
    fn request(&self, request: RequestId) -> Option<Arc<CallingRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).get(&request).cloned()
    }

    /// Returns the counter of a request in flight; `None` if the request is not registered.
    fn counter(&self, request: RequestId) -> Option<Arc<OutboundUse>> {
        self.request(request).map(|request| Arc::clone(request.used()))
    }

    /// Serves a worker's calls until its socket closes.
    pub async fn serve(self: Arc<Self>, stream: tokio::net::UnixStream) {
        let service = hyper::service::service_fn(move |request| answer(Arc::clone(&self), request));
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(SOCKET_STREAMS)
            // A guest that ends drops all its calls at once.
            .max_pending_accept_reset_streams(Some(SOCKET_STREAMS as usize))
            .initial_stream_window_size(SOCKET_WINDOW)
            .initial_connection_window_size(SOCKET_WINDOW * SOCKET_STREAMS)
            .max_header_list_size(HEAD_BYTES_MAX)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a worker's outbound connection ended");
        }
    }
}

/// Answers what a worker sends: a call of the platform, or outbound HTTP.
async fn answer(
    worker: Arc<WorkerEgress>,
    request: Request<Incoming>,
) -> Result<Response<call::OutboundBody>, Infallible> {
    if request.headers().contains_key(header::SERVICE) {
        let response = platform::answer(&worker, request).await;
        return Ok(response.map(|body| body.map_err(|never| match never {}).boxed_unsync()));
    }
    call::answer(worker, request).await
}

/// Outbound HTTP of the whole server: what all calls share.
pub struct Egress {
    live: LiveConfig,
    registry: Arc<Registry>,
    connector: TlsConnector,
    idle: Arc<IdleConnections>,
    lookups: Lookups,
    /// Permits for concurrent calls, by tenant. Created when first needed.
    permits: Mutex<HashMap<TenantName, Arc<Semaphore>>>,
    /// Permits for the name lookups of messages that the server sends itself, by tenant.
    message_lookups: Mutex<HashMap<TenantName, Lookups>>,
    /// Serves calls of siblings. Set once the front door is assembled.
    siblings: OnceLock<Arc<dyn SiblingCalls>>,
    platform: PlatformCalls,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Egress")
    }
}

impl Egress {
    /// Trusts the built-in root certificates and those in `egress.ca_file`. Returns an error if that file cannot be
    /// used.
    pub fn new(live: LiveConfig, registry: Arc<Registry>) -> io::Result<Arc<Self>> {
        let connector = connector(live.load().egress.ca_file.as_deref())?;
        Ok(Arc::new(Self {
            live,
            registry,
            connector,
            idle: Arc::default(),
            lookups: Lookups::default(),
            permits: Mutex::default(),
            message_lookups: Mutex::default(),
            siblings: OnceLock::new(),
            platform: PlatformCalls::default(),
        }))
    }

    /// Sets what serves calls of siblings. Later calls do nothing.
    pub fn set_siblings(&self, siblings: Arc<dyn SiblingCalls>) {
        let _ = self.siblings.set(siblings);
    }

    /// Sets what carries out the calls of guests to the platform. Until then they wait. Later calls do nothing.
    pub fn set_platform(&self, platform: Arc<dyn Platform>) {
        self.platform.set(platform);
    }

    /// Returns the outbound HTTP of a new worker of a tenant.
    pub fn worker(self: &Arc<Self>, tenant: &TenantName) -> Arc<WorkerEgress> {
        let (egress, tenant) = (Arc::clone(self), tenant.clone());
        let lookups = egress.lookups.of_worker();
        Arc::new(WorkerEgress {
            egress,
            tenant,
            lookups,
            versions: Mutex::default(),
            requests: Mutex::default(),
            calls: Arc::default(),
        })
    }

    fn permits(&self, tenant: &TenantName) -> Arc<Semaphore> {
        let limit = usize::try_from(self.live.load().egress.concurrency).unwrap_or(1);
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        // Permits that nobody holds are dropped, so that new ones follow the current limit.
        permits.retain(|_, permits| Arc::strong_count(permits) > 1);
        Arc::clone(permits.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(limit))))
    }
}

/// Returns an error if a file of CA certificates cannot be used.
pub fn check_ca_file(path: &Path) -> io::Result<()> {
    connector(Some(path)).map(drop)
}

fn connector(ca_file: Option<&Path>) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let told = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| told(&error))? {
            roots.add(certificate.map_err(|error| told(&error))?).map_err(|error| told(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
