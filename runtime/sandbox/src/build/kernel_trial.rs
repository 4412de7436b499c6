//! Tries a component's kernels on a GPU: each is compiled and dispatched once.
//!
//! In: the kernels that the component declares. Out: the report, with their hardened text and warnings. The trial also
//! fills the driver's cache, which is later copied to workers.

use crate::build::kernels::Kernels;
use crate::build::progress::Progress;
use gannet_base::hop::build::{BuildReport, BuildStage, RejectCode, Rejected};
use gannet_host_gpu::Device;
use gannet_host_gpu::check::{Directives, check, needs_constants};
use gannet_host_gpu::memory::MemoryQuota;
use gannet_host_gpu::usage::Payer;
use std::sync::Arc;

/// A longer hardened text is left out of the report.
const HARDENED_BYTES_MAX: usize = 512 * 1024;
/// Warnings that are reported. The others are counted.
const WARNINGS_MAX: usize = 32;
/// Limit on the GPU memory of trial dispatches.
pub(super) const TRIAL_BYTES_MAX: u64 = 64 << 20;

/// Returns a feature that the source enables and the device lacks.
fn missing_feature(wgsl: &str, device: &Device) -> Option<&'static str> {
    let wants = Directives::of(wgsl);
    let features = [("subgroups", wants.subgroups, device.has_subgroups()), ("f16", wants.f16, device.has_f16())];
    features.into_iter().find(|(_, wanted, has)| *wanted && !has).map(|(feature, ..)| feature)
}

/// Compiles each kernel and dispatches it once. Without a device the kernels are only reported, with a warning.
pub(super) fn try_kernels(
    mut kernels: Kernels,
    device: Option<Result<Arc<Device>, gannet_host_gpu::Error>>,
    progress: &Progress,
) -> Result<BuildReport, Rejected> {
    let mut warnings = Vec::new();
    let device = match device {
        Some(Ok(device)) => Some(device),
        Some(Err(error)) => {
            warnings.push(format!("the kernels were read but not tried: {error}"));
            None
        }
        None if kernels.is_empty() => None,
        None => {
            warnings.push("the kernels were read but not tried: this server has no gpu".to_owned());
            None
        }
    };
    let payer = Payer { memory: MemoryQuota::new("trial", TRIAL_BYTES_MAX, None), usage: Arc::default() };
    for (name, kernel) in &mut kernels {
        let Some(device) = &device else { break };
        progress.enter(BuildStage::Kernel { name: name.clone() })?;
        let rejected = |error: gannet_host_gpu::Error| Rejected {
            code: RejectCode::KernelRejected,
            detail: format!("kernel {name:?}: {error}"),
        };
        // A function may contain several variants of a kernel and open the one that the device can run.
        if let Some(feature) = missing_feature(&kernel.wgsl, device) {
            warnings.push(format!("kernel {name:?} was not tried: it enables {feature}, which this gpu lacks"));
            continue;
        }
        if needs_constants(&kernel.wgsl, &kernel.entry).map_err(rejected)? {
            warnings.push(format!(
                "kernel {name:?} has an override without default: it is compiled when it is first opened"
            ));
            continue;
        }
        device.kernel(&kernel.wgsl, &kernel.entry, &[], &payer).map_err(rejected)?;
        let hardened = check(&kernel.wgsl, &kernel.entry, &[], device.abilities()).and_then(|kernel| kernel.to_wgsl());
        kernel.hardened = hardened.ok().filter(|text| text.len() <= HARDENED_BYTES_MAX);
    }
    let more = warnings.len().saturating_sub(WARNINGS_MAX);
    if more > 0 {
        warnings.truncate(WARNINGS_MAX);
        warnings.push(format!("and {more} more warnings"));
    }
    Ok(BuildReport { kernels, warnings, snapshot_size: None })
}
