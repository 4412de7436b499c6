//! Receives the bodies of control requests: small ones in memory, components straight into a file.

use crate::control::error::ControlError;
use bytes::Bytes;
use gannet_base::manifest::Manifest;
use gannet_base::names::TenantName;
use gannet_fleet::inbound::{BODY_IDLE_MAX, InboundRequest};
use gannet_state::records::blobs::BlobKind;
use gannet_state::store::Store;
use gannet_state::store::files::Files;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// The largest manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 256 * 1024;

/// The most bytes of a multipart body beside its component: the manifest, part headers and boundaries.
const MULTIPART_OVERHEAD_MAX: u64 = 1 << 20;

/// Reads a body of at most `limit` bytes into memory.
pub(super) async fn collect(body: Incoming, limit: u64, what: &'static str) -> Result<Bytes, ControlError> {
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    let read = tokio::time::timeout(BODY_IDLE_MAX, limited.collect()).await;
    match read {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(ControlError::TooLarge { what, limit }),
        Ok(Err(error)) => Err(ControlError::Invalid(format!("the body broke off: {error}"))),
        Err(_) => Err(ControlError::Invalid(format!("the body did not arrive within {} s", BODY_IDLE_MAX.as_secs()))),
    }
}

/// A component in a temporary file, which is removed when this is dropped; or a component that is stored already.
#[derive(Debug)]
pub(super) struct ReceivedComponent {
    /// None if the component was stored before and nothing was uploaded.
    pub(super) path: Option<PathBuf>,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) manifest: Option<Manifest>,
}

impl Drop for ReceivedComponent {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // If this fails, the next start removes it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl ReceivedComponent {
    /// Finds a component that the tenant has uploaded before.
    async fn find_stored(
        store: &Store,
        tenant: &TenantName,
        digest: &str,
        manifest: Option<Manifest>,
    ) -> Result<Self, ControlError> {
        if digest.len() != 64 || !digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ControlError::Invalid("the digest is not SHA-256 in hex".into()));
        }
        let size = store.blobs(BlobKind::Component, tenant).size(digest).await?.ok_or(ControlError::NotFound)?;
        Ok(Self { path: None, digest: digest.to_owned(), size, manifest })
    }
}

struct ComponentFile {
    file: File,
    path: PathBuf,
    hash: Sha256,
    size: u64,
    limit: u64,
}

impl ComponentFile {
    fn new(files: &Files, limit: u64) -> Result<Self, ControlError> {
        let (path, file) = files.incoming()?;
        Ok(Self { file, path, hash: Sha256::new(), size: 0, limit })
    }

    fn write(&mut self, part: &[u8]) -> Result<(), ControlError> {
        self.size += part.len() as u64;
        if self.size > self.limit {
            return Err(ControlError::TooLarge { what: "component", limit: self.limit });
        }
        self.hash.update(part);
        Ok(self.file.write_all(part)?)
    }

    fn finish(self, manifest: Option<Manifest>) -> ReceivedComponent {
        let digest = hex::encode(self.hash.finalize());
        ReceivedComponent { path: Some(self.path), digest, size: self.size, manifest }
    }
}

/// Receives a component, with or without a manifest.
pub(super) async fn receive(
    inbound: InboundRequest,
    store: &Store,
    tenant: &TenantName,
    limit: u64,
) -> Result<ReceivedComponent, ControlError> {
    let media_type =
        inbound.parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/wasm" => plain(inbound, store.files(), limit).await,
        "multipart/form-data" => multipart(inbound, store, tenant, limit, &media_type).await,
        "" => Err(ControlError::UnsupportedMediaType("of no type".into())),
        other => Err(ControlError::UnsupportedMediaType(other.chars().take(100).collect())),
    }
}

async fn plain(mut inbound: InboundRequest, files: &Files, limit: u64) -> Result<ReceivedComponent, ControlError> {
    if inbound.check_length(limit).is_err() {
        gannet_fleet::inbound::discard_refused(&inbound.parts.headers, &mut inbound.body).await;
        return Err(ControlError::TooLarge { what: "component", limit });
    }
    let mut sink = ComponentFile::new(files, limit)?;
    let remove = RemoveOnError(Some(sink.path.clone()));
    let mut body = inbound.body;
    loop {
        let frame = tokio::time::timeout(BODY_IDLE_MAX, body.frame()).await.map_err(|_| slow())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| ControlError::Invalid(format!("the body broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            sink.write(&data)?;
        }
    }
    remove.keep();
    Ok(sink.finish(None))
}

struct RemoveOnError(Option<PathBuf>);

impl RemoveOnError {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnError {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Nothing else can be done about an upload that failed.
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(super) fn slow() -> ControlError {
    ControlError::Invalid(format!("no part of the body came for {} s", BODY_IDLE_MAX.as_secs()))
}

fn broken(error: &multer::Error) -> ControlError {
    ControlError::Invalid(format!("the multipart body: {error}"))
}

async fn multipart(
    inbound: InboundRequest,
    store: &Store,
    tenant: &TenantName,
    limit: u64,
    media_type: &str,
) -> Result<ReceivedComponent, ControlError> {
    let boundary = multer::parse_boundary(media_type).map_err(|error| broken(&error))?;
    let parts = futures::StreamExt::filter_map(BodyStream::new(inbound.body), |frame| async move {
        frame.map(|frame| frame.into_data().ok()).transpose()
    });
    let whole = multer::SizeLimit::new().whole_stream(limit + MULTIPART_OVERHEAD_MAX);
    let constraints = multer::Constraints::new().size_limit(whole);
    let mut parts = multer::Multipart::with_constraints(parts, boundary, constraints);
    let mut component: Option<ComponentFile> = None;
    let mut manifest: Option<Manifest> = None;
    let (mut digest, mut remove) = (None, None);
    loop {
        let field = tokio::time::timeout(BODY_IDLE_MAX, parts.next_field()).await.map_err(|_| slow())?;
        let Some(mut field) = field.map_err(|error| broken(&error))? else { break };
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "manifest" if manifest.is_none() => {
                let text = text(&mut field, "manifest", MANIFEST_BYTES_MAX).await?;
                manifest = Some(
                    Manifest::parse(&text).map_err(|error| ControlError::Invalid(format!("gannet.toml: {error}")))?,
                );
            }
            "digest" if digest.is_none() => digest = Some(text(&mut field, "digest", 64).await?),
            "component" if component.is_none() => {
                let mut sink = ComponentFile::new(store.files(), limit)?;
                remove = Some(RemoveOnError(Some(sink.path.clone())));
                while let Some(part) = chunk(&mut field).await? {
                    sink.write(&part)?;
                }
                component = Some(sink);
            }
            other => {
                let other: String = other.chars().take(64).collect();
                return Err(ControlError::Invalid(format!(
                    "unknown or repeated part {other:?}; the parts are manifest, and component or digest, once each"
                )));
            }
        }
    }
    if let (Some(digest), None) = (&digest, &component) {
        return ReceivedComponent::find_stored(store, tenant, digest, manifest).await;
    }
    let component = component.filter(|_| digest.is_none());
    let component =
        component.ok_or_else(|| ControlError::Invalid("one of the parts component and digest is needed".into()))?;
    if let Some(remove) = remove {
        remove.keep();
    }
    Ok(component.finish(manifest))
}

async fn text(field: &mut multer::Field<'_>, what: &'static str, limit: u64) -> Result<String, ControlError> {
    let mut text = Vec::new();
    while let Some(part) = chunk(field).await? {
        text.extend_from_slice(&part);
        if text.len() as u64 > limit {
            return Err(ControlError::TooLarge { what, limit });
        }
    }
    String::from_utf8(text).map_err(|_| ControlError::Invalid(format!("the {what} is not UTF-8")))
}

async fn chunk(field: &mut multer::Field<'_>) -> Result<Option<Bytes>, ControlError> {
    tokio::time::timeout(BODY_IDLE_MAX, field.chunk()).await.map_err(|_| slow())?.map_err(|error| broken(&error))
}
