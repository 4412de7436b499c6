//! Outbound HTTP of functions. A worker has no network; it asks here, over HTTP/2 on a socketpair of its own.
//!
//! ```text
//!  guest ─▶ worker ──h2──▶ [`WorkerEgress`] of the worker: is the request under way, is the host in its version's list?
//!     ─▶ the tenant's limits ─▶ resolve ─▶ every address checked ─▶ connect to that address ─▶ TLS ─▶ HTTP/1.1
//!     ◀─ head without what belongs to the connection ◀─ body, counted, capped, timed
//! ```
//!
//! Whose a call is comes from the socket; the version and the request that it names must be the worker's own. Redirects are
//! the function's to follow. A refusal is an answer with [`header::FAULT`](gannet_base::hop::header::FAULT) and an [`OutboundError`](gannet_base::hop::outbound::OutboundError).
//!
//! Invariant: the address that was checked is the address that is connected to.

pub mod address;
mod body;
mod call;

use gannet_base::allowed_hosts::AllowedHost;
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::hop::VersionKey;
use gannet_base::hop::outbound::{HEAD_BYTES_MAX, STREAMS_MAX, WINDOW};
use gannet_base::names::{RequestId, TenantName};
use gannet_state::config::LiveConfig;
use gannet_state::registry::{Registry, Version};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

/// Lets one request call out. Dropping it ends that.
#[derive(Debug)]
pub struct EgressGrant {
    worker: Weak<WorkerEgress>,
    request: RequestId,
    counter: Arc<OutboundUse>,
}

impl EgressGrant {
    /// What the request has sent out so far.
    pub fn counter(&self) -> &Arc<OutboundUse> {
        &self.counter
    }
}

impl Drop for EgressGrant {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.upgrade() {
            worker.requests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.request);
        }
    }
}

/// What one worker may ask for: the lists of the versions that it was given, and the requests that it runs.
#[derive(Debug)]
pub struct WorkerEgress {
    egress: Arc<Egress>,
    tenant: TenantName,
    /// Names that are being resolved.
    resolving: Arc<Semaphore>,
    versions: Mutex<HashMap<VersionKey, Vec<AllowedHost>>>,
    requests: Mutex<HashMap<RequestId, Arc<OutboundUse>>>,
}

impl WorkerEgress {
    /// Lets a version's requests out to where its manifest says.
    pub fn allow_version(&self, version: &Version) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.insert(version.key, version.allowed_hosts.clone());
    }

    /// A version is gone.
    pub fn forget(&self, version: VersionKey) {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).remove(&version);
    }

    /// A request begins; it may call out while the registration is held.
    pub fn register(self: &Arc<Self>, request: RequestId) -> EgressGrant {
        let counter = Arc::<OutboundUse>::default();
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).insert(request, Arc::clone(&counter));
        EgressGrant { worker: Arc::downgrade(self), request, counter }
    }

    fn allows(&self, version: VersionKey, https: bool, host: &str, port: u16) -> bool {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.get(&version).is_some_and(|hosts| hosts.iter().any(|known| known.allows(https, host, port)))
    }

    /// The counter of a request that is under way.
    fn counter(&self, request: RequestId) -> Option<Arc<OutboundUse>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).get(&request).cloned()
    }

    /// Serves a worker's calls until its socket closes.
    pub async fn serve(self: Arc<Self>, stream: tokio::net::UnixStream) {
        let service = hyper::service::service_fn(move |request| call::answer(Arc::clone(&self), request));
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a worker's outbound connection ended");
        }
    }
}

/// Names that are resolved at once, of all tenants and of one worker.
const RESOLVING_MAX: usize = 64;
const RESOLVING_OF_WORKER_MAX: usize = 8;
/// What all calls share.
pub struct Egress {
    live: LiveConfig,
    registry: Arc<Registry>,
    connector: TlsConnector,
    /// Names that are being resolved, of all tenants.
    resolving: Arc<Semaphore>,
    /// Calls at once, by tenant; made when first needed.
    permits: Mutex<HashMap<TenantName, Arc<Semaphore>>>,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Egress")
    }
}

impl Egress {
    /// With the usual certificates, and those of the file.
    pub fn new(live: LiveConfig, registry: Arc<Registry>) -> io::Result<Arc<Self>> {
        let connector = connector(live.load().egress.ca_file.as_deref())?;
        let resolving = Arc::new(Semaphore::new(RESOLVING_MAX));
        Ok(Arc::new(Self { live, registry, connector, resolving, permits: Mutex::default() }))
    }

    /// The outbound side of a tenant's worker.
    pub fn worker(self: &Arc<Self>, tenant: &TenantName) -> Arc<WorkerEgress> {
        let (egress, tenant) = (Arc::clone(self), tenant.clone());
        let resolving = Arc::new(Semaphore::new(RESOLVING_OF_WORKER_MAX));
        Arc::new(WorkerEgress { egress, tenant, resolving, versions: Mutex::default(), requests: Mutex::default() })
    }

    fn permits(&self, tenant: &TenantName) -> Arc<Semaphore> {
        let limit = usize::try_from(self.live.load().egress.concurrency).unwrap_or(1);
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        // A tenant whose permits nobody holds begins anew, with the limit of now.
        permits.retain(|_, permits| Arc::strong_count(permits) > 1);
        Arc::clone(permits.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(limit))))
    }
}

/// What is wrong with a file of certificates, if anything is.
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
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
