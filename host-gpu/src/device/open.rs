//! Opens an adapter: requests features and limits, and refuses an adapter without those that hardened kernels need.

use crate::adapter::{self, TIMESTAMPS};
use crate::error::{self, Error};
use crate::harden::{FLAG_GROUP, IMMEDIATES_SIZE};
use crate::host_memory;
use gannet_gpu_protocol::Gpu;

/// The minimum number of invocations in a subgroup that kernels may rely on. Some software drivers have four; there,
/// subgroups are disabled.
const SUBGROUP_LANES_MIN: u32 = 8;

/// The options for opening a device.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// Position in the driver's list.
    pub index: u32,
    /// The class that the operator has given the GPU. None for that of [`adapter::discover`].
    pub class: Option<String>,
    /// Quota in bytes for everything that is allocated on the device.
    pub memory_max: u64,
    /// Whether assets are mapped instead of copied, if the device computes in the host's memory.
    pub map_assets: bool,
}

/// A device that was just opened.
pub(super) type OpenedDevice = (wgpu::Device, wgpu::Queue, Gpu);

/// Opens the adapter that the options name.
pub(super) fn open(options: &DeviceOptions) -> Result<OpenedDevice, Error> {
    let index = options.index;
    let instance = adapter::instance();
    let adapters = adapter::adapters(&instance);
    let adapter = adapters
        .get(index as usize)
        .ok_or_else(|| Error::Unsupported(format!("there is no gpu {index}; {} were found", adapters.len())))?;
    let mut gpu = adapter::describe(index, adapter);
    gpu.class = options.class.clone().unwrap_or(gpu.class);
    let wanted = wgpu::DeviceDescriptor {
        label: None,
        required_features: features(adapter),
        required_limits: limits(index, adapter)?,
        experimental_features: wgpu::ExperimentalFeatures::disabled(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        trace: wgpu::Trace::Off,
    };
    let in_host_memory = if gpu.software && options.map_assets { host_memory::open(adapter, &wanted) } else { None };
    let (device, queue) = match in_host_memory {
        Some(opened) => opened,
        None => error::ready(adapter.request_device(&wanted))
            .ok_or_else(Error::lost)?
            .map_err(|refused| Error::Unsupported(format!("the gpu device could not be opened: {refused}")))?,
    };
    Ok((device, queue, gpu))
}

fn features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let mut wanted =
        TIMESTAMPS | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::PIPELINE_CACHE;
    if adapter.get_info().subgroup_min_size < SUBGROUP_LANES_MIN {
        wanted.remove(wgpu::Features::SUBGROUP);
    }
    (adapter.features() & wanted) | wgpu::Features::IMMEDIATES
}

fn limits(index: u32, adapter: &wgpu::Adapter) -> Result<wgpu::Limits, Error> {
    let mut limits = adapter.limits();
    let (groups, immediates) = (limits.max_bind_groups, limits.max_immediate_size);
    if !adapter.features().contains(wgpu::Features::IMMEDIATES) || groups <= FLAG_GROUP || immediates < IMMEDIATES_SIZE
    {
        return Err(Error::Unsupported(format!(
            "gpu {index} has {groups} bind groups and {immediates} bytes of immediates; {} and {IMMEDIATES_SIZE} \
             are needed to bound kernels",
            FLAG_GROUP + 1
        )));
    }
    // Sizes are u32 in WGSL and in many drivers. Larger bindings are not worth the risk.
    limits.max_buffer_size = limits.max_buffer_size.min(u64::from(u32::MAX) + 1);
    Ok(limits)
}

/// Opens a device that runs no shader.
pub(super) fn open_noop() -> OpenedDevice {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor {
        required_features: wgpu::Features::IMMEDIATES,
        required_limits: wgpu::Limits {
            max_immediate_size: IMMEDIATES_SIZE,
            max_bind_groups: FLAG_GROUP + 1,
            ..wgpu::Limits::default()
        },
        ..wgpu::DeviceDescriptor::default()
    });
    let gpu = Gpu {
        index: 0,
        name: "noop".into(),
        backend: "noop".into(),
        driver: String::new(),
        class: "software".into(),
        software: true,
        timestamps: false,
        memory_bytes: 0,
        context_bytes: 0,
    };
    (device, queue, gpu)
}
