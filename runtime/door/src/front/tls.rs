//! TLS for clients, with rustls: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. The files are checked for changes every two
//! seconds. If they have changed and are valid, new connections get the new certificate. Invalid files change nothing.

use arc_swap::ArcSwap;
use gannet_state::config::TlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How often the files are checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The certificate in use, and the files that it was read from.
#[derive(Debug)]
pub struct Tls {
    files: TlsConfig,
    config: ArcSwap<ServerConfig>,
}

type Times = [Option<SystemTime>; 2];

fn times(files: &TlsConfig) -> Times {
    [&files.cert, &files.key].map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

fn load(files: &TlsConfig) -> io::Result<ServerConfig> {
    let file_error =
        |path: &Path, error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&files.cert).map_err(|error| file_error(&files.cert, &error))?.collect();
    let chain = chain.map_err(|error| file_error(&files.cert, &error))?;
    if chain.is_empty() {
        return Err(file_error(&files.cert, &"it contains no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| file_error(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| file_error(&files.cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Checks that certificate and key can be read and used.
pub fn check(files: &TlsConfig) -> io::Result<()> {
    load(files).map(drop)
}

impl Tls {
    /// Reads certificate and key, and starts a task that reads them again when they change.
    pub fn start(files: TlsConfig) -> io::Result<Arc<Self>> {
        let seen = times(&files);
        let tls = Arc::new(Self { config: ArcSwap::from_pointee(load(&files)?), files });
        tokio::spawn(watch(Arc::downgrade(&tls), seen));
        Ok(tls)
    }

    /// Reads the files again.
    pub fn reload(&self) {
        match load(&self.files) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!(cert = %self.files.cert.display(), "the certificate was read");
            }
            Err(error) => tracing::error!(%error, "the certificate cannot be read; the old one stays in use"),
        }
    }

    /// Performs the handshake, within [`HANDSHAKE_MAX`].
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")))
    }
}

async fn watch(tls: std::sync::Weak<Tls>, mut seen: Times) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(tls) = tls.upgrade() else { return };
        let now = times(&tls.files);
        if now != seen {
            seen = now;
            tls.reload();
        }
    }
}
