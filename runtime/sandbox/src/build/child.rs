//! The builder process: validates, compiles, tries the kernels, writes a report, ends.
//!
//! ```text
//!  confine ▶ read bytes, validate, find kernels ▶ open the GPU if there are any ▶ seccomp
//!          ▶ run init, if it has a snapshot ▶ compile ▶ check imports and exports ▶ each kernel: compile, one dispatch ▶ report
//! ```
//!
//! The bytes are read by safe code before the last layer is up, because whether a GPU is needed
//! depends on them; compilers and drivers see them only after it.

use crate::build::{component, kernels, snapshot};
use crate::lease::link;
use crate::worker::linker;
use gannet_base::hop::build::{BuildOrder, Built, RejectCode, Rejected, Stage};
use gannet_host_gpu::Device;
use gannet_host_gpu::check::{check, needs_constants};
use gannet_host_gpu::device::DeviceOptions;
use gannet_host_gpu::memory::MemoryQuota;
use gannet_host_gpu::usage::Payer;
use gannet_process::channel::send_now;
use gannet_process::child::{Child, PIPELINES, Role};
use gannet_process::confine;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// A longer hardened text is not kept.
const HARDENED_BYTES_MAX: usize = 512 * 1024;
/// How long the driver's cache may take to be written.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// A cache that has not changed for this long is done.
const QUIET: Duration = Duration::from_millis(200);
/// GPU memory for trial dispatches.
const TRIAL_BYTES_MAX: u64 = 64 << 20;

/// Runs a builder.
pub fn run(child: Child) -> io::Result<()> {
    let Child { mut descriptors, mut confinement, home } = child;
    let assets = descriptors.split_off(Role::Builder.descriptors());
    let [control, order, component, output, report, leases, notes]: [OwnedFd; 7] =
        descriptors.try_into().map_err(|_| io::Error::other("a builder needs seven descriptors"))?;
    let link = link(leases, notes)?;
    let say = |stage: Stage| -> io::Result<()> { send_now(control.as_fd(), &serde_json::to_vec(&stage)?, &[]) };
    say(Stage::Component)?;
    let order: BuildOrder = serde_json::from_reader(File::from(order))?;
    let mut bytes = Vec::new();
    File::from(component).read_to_end(&mut bytes)?;
    let result = found(&bytes).and_then(|found| {
        let device = match (found.is_empty(), order.gpu) {
            (false, Some(index)) => Some(Device::open_shared(
                DeviceOptions { index, class: None, memory_max: TRIAL_BYTES_MAX, map_assets: false },
                Some(link),
            )),
            _ => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| invalid(error.to_string()))?;
        confine::after_drivers(&mut confinement)
            .map_err(|error| invalid(format!("the builder is not confined: {error}")))?;
        let engine = crate::engine::runtime(order.wasi_http_0_3).map_err(|error| invalid(format!("{error:#}")))?;
        refuse_0_3(&bytes, order.wasi_http_0_3)?;
        let with_memory = match &order.snapshot {
            Some(init) => {
                stage(&say, Stage::Init)?;
                let taken = snapshot::snapshot(&runtime, &engine, &bytes, init, assets, order.wasi_http_0_3)?;
                stage(&say, Stage::Component)?;
                Some(taken)
            }
            None => None,
        };
        compile(&engine, with_memory.as_ref().unwrap_or(&bytes), output, order.wasi_http_0_3)?;
        let opened = device.as_ref().and_then(|device| device.as_ref().ok().cloned());
        if let Some(device) = &opened {
            device.use_driver_cache(None);
        }
        let mut built = try_kernels(found, device, &say)?;
        built.snapshot_size = with_memory.map(|bytes| bytes.len() as u64);
        keep_pipelines(&home, &bytes, opened.as_deref());
        settle(&home, built.kernels.len(), opened.as_deref());
        Ok(built)
    });
    let mut report = File::from(report);
    report.write_all(&serde_json::to_vec(&result)?)?;
    say(Stage::Done)?;
    gannet_process::child::leave(0)
}

/// Writes what the driver compiled beside its own cache, under a name of this component's own.
fn keep_pipelines(home: &Path, component: &[u8], device: Option<&Device>) {
    let Some(data) = device.and_then(Device::driver_cache) else { return };
    let digest = Sha256::digest(component).iter().take(8).fold(0u64, |all, byte| (all << 8) | u64::from(*byte));
    if let Err(error) = std::fs::write(home.join(format!("{PIPELINES}{digest:016x}")), data) {
        // Only the first dispatch is slower.
        tracing::warn!(%error, "what the driver compiled could not be kept");
    }
}

/// Drivers write their caches on threads of their own, and this process ends without waiting for threads: so it
/// waits for what they write. Done when there is a finished file for each kernel, or nothing changes any more; and when
/// the GPU was given back, as it is a millisecond after its last use.
fn settle(home: &Path, kernels: usize, device: Option<&Device>) {
    let began = Instant::now();
    while device.is_some_and(Device::holds_gpu) && began.elapsed() < SETTLE_MAX {
        std::thread::sleep(Duration::from_micros(500));
    }
    let mut last = (cache_files(home), Instant::now());
    while kernels > 0 && began.elapsed() < SETTLE_MAX {
        let (finished, unfinished) = cache_files(home);
        if unfinished == 0 && finished >= kernels {
            return;
        }
        if last.0 != (finished, unfinished) {
            last = ((finished, unfinished), Instant::now());
        }
        if unfinished == 0 && last.1.elapsed() >= QUIET {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Files in a driver's cache: finished ones, the index left out, and those being written.
fn cache_files(folder: &Path) -> (usize, usize) {
    let mut counts = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let inner = cache_files(&path);
            counts = (counts.0 + inner.0, counts.1 + inner.1);
        } else if path.extension().is_some_and(|extension| extension == "tmp") {
            counts.1 += 1;
        } else if path.file_name().is_some_and(|name| name != "index") {
            counts.0 += 1;
        }
    }
    counts
}

type Found = std::collections::BTreeMap<String, gannet_base::hop::BundleKernel>;

fn invalid(detail: impl Into<String>) -> Rejected {
    Rejected { code: RejectCode::ComponentInvalid, detail: detail.into() }
}

fn found(bytes: &[u8]) -> Result<Found, Rejected> {
    component::validate(bytes)?;
    kernels::decode(&component::kernel_sections(bytes)?)
}

/// Tells the front door what is done now.
fn stage(say: &dyn Fn(Stage) -> io::Result<()>, stage: Stage) -> Result<(), Rejected> {
    say(stage).map_err(|error| invalid(format!("the front door is gone: {error}")))
}

fn refuse_0_3(bytes: &[u8], wasi_http_0_3: bool) -> Result<(), Rejected> {
    if !wasi_http_0_3 && component::is_service_0_3(bytes) {
        return Err(invalid(
            "it is for wasi:http/service 0.3, which this server has not enabled (wasi_http_0_3 = true)",
        ));
    }
    Ok(())
}

fn compile(engine: &Engine, bytes: &[u8], output: OwnedFd, wasi_http_0_3: bool) -> Result<(), Rejected> {
    let compiled =
        engine.precompile_component(bytes).map_err(|error| invalid(format!("it does not compile: {error:#}")))?;
    // SAFETY: compiled a line above, by this process, with this engine.
    let component = unsafe { Component::deserialize(engine, &compiled) }
        .map_err(|error| invalid(format!("it does not load: {error:#}")))?;
    let linker = linker(engine, wasi_http_0_3).map_err(|error| invalid(format!("{error:#}")))?;
    let instance = linker.instantiate_pre(&component).map_err(|error| {
        let names: Vec<String> = component
            .component_type()
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .filter(|name| !name.starts_with("wasi:") && !name.starts_with("gannet:gpu/"))
            .collect();
        if names.is_empty() {
            invalid(format!("its imports do not fit: {error:#}"))
        } else {
            invalid(format!("unknown imports: {}", names.join(", ")))
        }
    })?;
    if ServicePre::new(instance.clone()).is_err() && ProxyPre::new(instance).is_err() {
        return Err(invalid("it has no handler: a function exports wasi:http/incoming-handler 0.2"));
    }
    let mut output = File::from(output);
    let written = output.write_all(&compiled).and_then(|()| output.sync_all());
    written.map_err(|error| invalid(format!("the compiled component could not be written: {error}")))
}

/// A feature that a source enables and a device has not got.
fn missing(wgsl: &str, device: &Device) -> Option<&'static str> {
    let features = [("subgroups", device.has_subgroups()), ("f16", device.has_f16())];
    let enables = |feature: &str| wgsl.contains(&format!("enable {feature};"));
    features.into_iter().find(|(feature, has)| !has && enables(feature)).map(|(feature, _)| feature)
}

fn try_kernels(
    mut found: Found,
    device: Option<Result<Arc<Device>, gannet_host_gpu::Error>>,
    say: &dyn Fn(Stage) -> io::Result<()>,
) -> Result<Built, Rejected> {
    let mut warnings = Vec::new();
    let device = match device {
        Some(Ok(device)) => Some(device),
        Some(Err(error)) => {
            warnings.push(format!("the kernels were read but not tried: {error}"));
            None
        }
        None if found.is_empty() => None,
        None => {
            warnings.push("the kernels were read but not tried: this server has no gpu".to_owned());
            None
        }
    };
    let payer = Payer { memory: MemoryQuota::new("trial", TRIAL_BYTES_MAX, None), usage: Arc::default() };
    for (name, kernel) in &mut found {
        let Some(device) = &device else { break };
        stage(say, Stage::Kernel { name: name.clone() })?;
        let rejected = |error: gannet_host_gpu::Error| Rejected {
            code: RejectCode::KernelRejected,
            detail: format!("kernel {name:?}: {error}"),
        };
        // A function may bring a kernel in several kinds, and open the one that the device can run.
        if let Some(feature) = missing(&kernel.wgsl, device) {
            warnings.push(format!("kernel {name:?} was not tried: it enables {feature}, which this gpu has not got"));
            continue;
        }
        if needs_constants(&kernel.wgsl, device.abilities()).map_err(rejected)? {
            warnings.push(format!(
                "kernel {name:?} has an override without default: it is compiled when it is first opened"
            ));
            continue;
        }
        device.kernel(&kernel.wgsl, &kernel.entry, &[], &payer).map_err(rejected)?;
        let hardened = check(&kernel.wgsl, &kernel.entry, &[], device.abilities()).and_then(|kernel| kernel.to_wgsl());
        kernel.hardened = hardened.ok().filter(|text| text.len() <= HARDENED_BYTES_MAX);
    }
    Ok(Built { kernels: found, warnings, snapshot_size: None })
}
