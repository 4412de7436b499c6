//! Loads a version: reads the compiled component and links it, once, so that a request only has to
//! instantiate.

use crate::worker::guest::{Guest, GuestInputs};
use gannet_base::hop::{Bundle, BundleKernel, RunLimits, VersionKey};
use gannet_host_gpu::asset::AssetPin;
use gannet_host_gpu::kernel::DeclaredKernel;
use gannet_host_gpu::{AssetCatalog, AssetFile, KernelCatalog};
use rustix::mm::{MapFlags, ProtFlags};
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// The largest bundle: kernels of 256 KiB each, many of them.
const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// Shorter secrets are not looked for in logs.
const SECRET_BYTES_MIN: usize = 6;

/// How a component is called.
pub(crate) enum Entry {
    /// `wasi:http/proxy` 0.2.
    Proxy(ProxyPre<Guest>),
    /// `wasi:http/service` 0.3.
    Service(ServicePre<Guest>),
}

/// A version ready to be instantiated.
pub(crate) struct Loaded {
    pub(crate) key: VersionKey,
    pub(crate) entry: Entry,
    pub(crate) catalog: Arc<KernelCatalog>,
    /// What each of its guests is given.
    pub(crate) inputs: GuestInputs,
    /// Whether its assets stay on the GPU while nobody calls.
    pub(crate) keep: bool,
    /// What stays there.
    pub(crate) kept: Mutex<Vec<AssetPin>>,
    /// Values that must not be seen in a log.
    pub(crate) secrets: Arc<[String]>,
    pub(crate) limits: RunLimits,
}

/// Loads a version from the descriptors the front door sent. Errors are for the operator's log.
pub(crate) fn load(
    engine: &Engine,
    linker: &Linker<Guest>,
    key: VersionKey,
    component: BorrowedFd<'_>,
    bundle: OwnedFd,
    assets: impl Iterator<Item = OwnedFd>,
) -> Result<Loaded, String> {
    let mut text = String::new();
    let file = std::fs::File::from(bundle);
    file.take(BUNDLE_BYTES_MAX).read_to_string(&mut text).map_err(|error| format!("the bundle: {error}"))?;
    let bundle: Bundle = serde_json::from_str(&text).map_err(|error| format!("the bundle: {error}"))?;
    let began = Instant::now();
    let component = read(engine, component)?;
    let read_us = began.elapsed().as_micros();
    let instance = linker.instantiate_pre(&component).map_err(|error| format!("linking: {error:#}"))?;
    let entry = match ServicePre::new(instance.clone()) {
        Ok(pre) => Entry::Service(pre),
        Err(_) => Entry::Proxy(ProxyPre::new(instance).map_err(|error| format!("linking: {error:#}"))?),
    };
    tracing::debug!(function = bundle.function, read_us, all_us = began.elapsed().as_micros(), "a version was loaded");
    let declared = |kernel: BundleKernel| DeclaredKernel { wgsl: kernel.wgsl.into(), entry: kernel.entry };
    let catalog = bundle.kernels.into_iter().map(|(name, kernel)| (name, declared(kernel))).collect();
    // Shorter ones would hide half of every log, and are no secrets.
    let mut secrets: Vec<String> =
        bundle.secrets.values().flat_map(|value| value.lines()).map(ToOwned::to_owned).collect();
    secrets.retain(|line| line.len() >= SECRET_BYTES_MIN);
    // The longest first: one may begin with another.
    secrets.sort_by_key(|line| std::cmp::Reverse(line.len()));
    let secrets = secrets.into();
    let env: Vec<(String, String)> = bundle.env.into_iter().chain(bundle.secrets).collect();
    let config = Arc::new(env.iter().cloned().collect());
    let files = bundle.assets.into_iter().zip(assets);
    let assets: AssetCatalog = files
        .map(|(asset, file)| (asset.name, AssetFile::new(std::fs::File::from(file), asset.size, asset.digest)))
        .collect();
    Ok(Loaded {
        key,
        entry,
        catalog: Arc::new(catalog),
        inputs: GuestInputs { env, config, assets: Arc::new(assets), memory_bytes: bundle.limits.memory_bytes },
        keep: bundle.keep,
        kept: Mutex::default(),
        secrets,
        limits: bundle.limits,
    })
}

/// Loads a compiled component. Its bytes are copied once: `deserialize_raw`, which would run from the
/// mapping itself, exists only for targets without virtual memory, and a path cannot be opened
/// from in here.
fn read(engine: &Engine, file: BorrowedFd<'_>) -> Result<Component, String> {
    let failed = |error: rustix::io::Errno| format!("mapping the component: {error}");
    let size = usize::try_from(rustix::fs::fstat(file).map_err(failed)?.st_size).map_err(|error| error.to_string())?;
    // SAFETY: a fresh private mapping of a descriptor we hold; nothing else knows its address.
    let memory = unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }
        .map_err(failed)?;
    // SAFETY: the mapping is `size` bytes long, readable, and unmapped only below; the file is never
    // changed once it has its name.
    let bytes = unsafe { std::slice::from_raw_parts(memory.cast::<u8>(), size) };
    // SAFETY: the front door passes only files that its builder wrote with this same binary and
    // these same settings, from a folder that no tenant can write.
    let component = unsafe { Component::deserialize(engine, bytes) };
    // SAFETY: `bytes` is not used any more; the component has its own copy.
    unsafe { rustix::mm::munmap(memory, size) }.map_err(failed)?;
    component.map_err(|error| format!("loading the component: {error:#}"))
}
