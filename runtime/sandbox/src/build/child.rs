//! The builder process: validates an upload, compiles it, tries its kernels, writes a report and exits.
//!
//! ```text
//!  confine ▶ read bytes, validate, bound the cost, find kernels ▶ open the GPU if there are any ▶ seccomp
//!          ▶ run init, if it has a snapshot ▶ compile ▶ check imports and exports ▶ each kernel: compile, one dispatch ▶ report
//! ```
//!
//! The uploaded bytes decide whether a GPU is needed, so they are read before seccomp, the last layer of confinement,
//! is active. Only safe code may read them then. Compilers and drivers must not see them before seccomp is active.

use crate::build::compile::{compile, refuse_0_3};
use crate::build::complexity;
use crate::build::component::{self, invalid};
use crate::build::kernel_trial::{TRIAL_BYTES_MAX, try_kernels};
use crate::build::kernels::{self, Kernels};
use crate::build::progress::Progress;
use crate::build::{driver_cache, snapshot};
use crate::{arbiter_link, engine};
use gannet_base::hop::build::{BuildSpec, BuildStage, Rejected};
use gannet_host_gpu::Device;
use gannet_host_gpu::device::DeviceOptions;
use gannet_process::child::{Child, Role};
use gannet_process::confine;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

/// Runs a builder.
pub fn run(child: Child) -> io::Result<()> {
    let Child { mut descriptors, mut confinement, home } = child;
    let assets = descriptors.split_off(Role::Builder.descriptors());
    let [control, order, component, output, report, leases, notes]: [OwnedFd; 7] =
        descriptors.try_into().map_err(|_| io::Error::other("a builder needs seven descriptors"))?;
    let link = arbiter_link::open(leases, notes)?;
    let progress = Progress::new(control);
    progress.report(BuildStage::Component)?;
    let order: BuildSpec = serde_json::from_reader(File::from(order))?;
    let mut bytes = Vec::new();
    File::from(component).read_to_end(&mut bytes)?;
    let result = validate(&bytes, order.is_deployed).and_then(|kernels| {
        let device = match (kernels.is_empty(), order.gpu) {
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
        let engine = engine::pooling(order.wasi_http_0_3).map_err(|error| invalid(format!("{error:#}")))?;
        refuse_0_3(&bytes, order.wasi_http_0_3)?;
        let initialized = match &order.snapshot {
            Some(init) => {
                let begins = || progress.enter(BuildStage::Init);
                let taken = snapshot::snapshot(&runtime, &engine, &bytes, (init, assets), order.wasi_http_0_3, begins)?;
                progress.enter(BuildStage::Component)?;
                Some(taken)
            }
            None => None,
        };
        compile(&engine, initialized.as_ref().unwrap_or(&bytes), output, &order)?;
        let opened = device.as_ref().and_then(|device| device.as_ref().ok().cloned());
        if let Some(device) = &opened {
            device.use_driver_cache(None);
        }
        let mut built = try_kernels(kernels, device, &progress)?;
        built.snapshot_size = initialized.map(|bytes| bytes.len() as u64);
        driver_cache::write(&home, &bytes, opened.as_deref());
        driver_cache::wait_until_written(&home, built.kernels.len(), opened.as_deref());
        Ok(built)
    });
    let mut report = File::from(report);
    report.write_all(&serde_json::to_vec(&result)?)?;
    progress.report(BuildStage::Done)?;
    gannet_process::child::exit_now(0)
}

/// Validates the component and returns its kernels.
fn validate(bytes: &[u8], is_deployed: bool) -> Result<Kernels, Rejected> {
    component::validate(bytes)?;
    if !is_deployed {
        complexity::check(bytes)?;
    }
    kernels::decode(&component::kernel_sections(bytes)?)
}
