//! A loaded version. Its compiled component is read and linked once, so that a request only has to instantiate it.
//!
//! In: descriptors that the front door sends, and a link in the worker's folder to the same compiled component. Only the
//! builder writes the compiled component. A file that a tenant can write must never be loaded as one, because compiled
//! code is trusted.

use crate::guest::{GuestInputs, GuestState};
use crate::worker::preparation_limit::PreparationLimit;
use gannet_base::hop::{Bundle, BundleKernel, RunLimits, VersionKey};
use gannet_host_gpu::asset::AssetPin;
use gannet_host_gpu::kernel::DeclaredKernel;
use gannet_host_gpu::{AssetCatalog, AssetFile, KernelCatalog};
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

/// A larger bundle is cut off and fails. It holds many kernels of up to 256 KiB.
const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// Lines of secrets that are shorter than this are not masked in logs: they cannot be secret, and masking them would
/// hide half of every log.
const SECRET_BYTES_MIN: usize = 6;

/// The handler that a component exports, linked and ready to be instantiated.
pub(crate) enum HandlerPre {
    /// `wasi:http/proxy` 0.2.
    Proxy(ProxyPre<GuestState>),
    /// `wasi:http/service` 0.3.
    Service(ServicePre<GuestState>),
}

/// An instance of a component, through the handler that it exports.
pub(crate) enum Handler {
    Proxy(Proxy),
    Service(Service),
}

impl HandlerPre {
    /// Makes an instance. Its store limits what the code may use that runs meanwhile.
    pub(crate) async fn instantiate(&self, store: &mut Store<GuestState>) -> wasmtime::Result<Handler> {
        Ok(match self {
            Self::Proxy(pre) => Handler::Proxy(pre.instantiate_async(store).await?),
            Self::Service(pre) => Handler::Service(pre.instantiate_async(store).await?),
        })
    }
}

/// A version that is ready to be instantiated.
pub(crate) struct LoadedVersion {
    pub(crate) key: VersionKey,
    pub(crate) handler: HandlerPre,
    pub(crate) kernels: Arc<KernelCatalog>,
    /// What every guest of the version gets.
    pub(crate) inputs: GuestInputs,
    /// Whether its assets stay on the GPU while there are no requests.
    pub(crate) keeps_assets: bool,
    /// The assets that are kept on the GPU.
    pub(crate) pinned_assets: Mutex<Vec<AssetPin>>,
    /// Values that must not appear in a log, the longest first.
    pub(crate) secrets: Arc<[String]>,
    pub(crate) limits: RunLimits,
    pub(crate) preparation: Arc<PreparationLimit>,
}

impl LoadedVersion {
    /// Whether an instance may serve several requests. Those of `wasi:http` 0.3 never do.
    pub(crate) fn reuses_instances(&self) -> bool {
        self.limits.instance_reuse > 1 && matches!(self.handler, HandlerPre::Proxy(_))
    }
}

/// Loads a version from its descriptors. Errors are for the operator's log.
pub(crate) fn load(
    engine: &Engine,
    linker: &Linker<GuestState>,
    key: VersionKey,
    (linked, component): (&Path, BorrowedFd<'_>),
    bundle: OwnedFd,
    assets: impl Iterator<Item = OwnedFd>,
) -> Result<LoadedVersion, String> {
    let mut text = String::new();
    let file = std::fs::File::from(bundle);
    file.take(BUNDLE_BYTES_MAX).read_to_string(&mut text).map_err(|error| format!("the bundle: {error}"))?;
    let bundle: Bundle = serde_json::from_str(&text).map_err(|error| format!("the bundle: {error}"))?;
    let began = Instant::now();
    let component = deserialize(engine, linked, component)?;
    let read_us = began.elapsed().as_micros();
    let instance = linker.instantiate_pre(&component).map_err(|error| format!("linking: {error:#}"))?;
    let handler = match ServicePre::new(instance.clone()) {
        Ok(pre) => HandlerPre::Service(pre),
        Err(_) => HandlerPre::Proxy(ProxyPre::new(instance).map_err(|error| format!("linking: {error:#}"))?),
    };
    tracing::debug!(function = bundle.function, read_us, all_us = began.elapsed().as_micros(), "a version was loaded");
    let declared = |kernel: BundleKernel| DeclaredKernel { wgsl: kernel.wgsl.into(), entry: kernel.entry };
    let kernels = bundle.kernels.into_iter().map(|(name, kernel)| (name, declared(kernel))).collect();
    let mut secrets: Vec<String> =
        bundle.secrets.values().flat_map(|value| value.lines()).map(ToOwned::to_owned).collect();
    secrets.retain(|line| line.len() >= SECRET_BYTES_MIN);
    // The longest first, because one may begin with another.
    secrets.sort_by_key(|line| std::cmp::Reverse(line.len()));
    let secrets = secrets.into();
    let env: Vec<(String, String)> = bundle.env.into_iter().chain(bundle.secrets).collect();
    let config = Arc::new(env.iter().cloned().collect());
    let files = bundle.assets.into_iter().zip(assets);
    let assets: AssetCatalog = files
        .map(|(asset, file)| (asset.name, AssetFile::new(std::fs::File::from(file), asset.size, asset.digest)))
        .collect();
    Ok(LoadedVersion {
        key,
        handler,
        kernels: Arc::new(kernels),
        inputs: GuestInputs { env, config, assets: Arc::new(assets), memory_bytes: bundle.limits.memory_bytes },
        keeps_assets: bundle.keep,
        pinned_assets: Mutex::default(),
        secrets,
        limits: bundle.limits,
        preparation: Arc::default(),
    })
}

/// Loads a compiled component. It is mapped, not copied, if the front door has linked its file into the worker's folder:
/// the pages are those of the file, and are read when they are first used.
fn deserialize(engine: &Engine, linked: &Path, file: BorrowedFd<'_>) -> Result<Component, String> {
    let is_linked = is_same_file(linked, file);
    // SAFETY: the front door sends only files that its builder wrote with this same binary and these same settings, in a
    // folder that no tenant can write. The linked file is the sent one, and this process cannot change it: it belongs to
    // another user.
    let mapped = is_linked.then(|| unsafe { Component::deserialize_file(engine, linked) });
    // The mapping stays.
    let _ = std::fs::remove_file(linked);
    match mapped {
        Some(Ok(component)) => Ok(component),
        Some(Err(error)) => {
            tracing::warn!(error = format!("{error:#}"), "compiled code could not be mapped, and is copied");
            copy(engine, file)
        }
        None => copy(engine, file),
    }
}

/// Whether a path leads to the file that a descriptor was sent for.
fn is_same_file(path: &Path, file: BorrowedFd<'_>) -> bool {
    let (found, sent) = (rustix::fs::lstat(path), rustix::fs::fstat(file));
    matches!((found, sent), (Ok(found), Ok(sent)) if (found.st_dev, found.st_ino) == (sent.st_dev, sent.st_ino))
}

/// Loads a compiled component by copying it.
fn copy(engine: &Engine, file: BorrowedFd<'_>) -> Result<Component, String> {
    let failed = |error: std::io::Error| format!("reading the component: {error}");
    let mut bytes = Vec::new();
    std::fs::File::from(file.try_clone_to_owned().map_err(failed)?).read_to_end(&mut bytes).map_err(failed)?;
    // SAFETY: as in `deserialize`.
    let component = unsafe { Component::deserialize(engine, bytes) };
    component.map_err(|error| format!("loading the component: {error:#}"))
}
