//! Lists the GPUs. Loading the drivers is slow (hundreds of milliseconds) and may crash, so the front door has a
//! short-lived child do it. Workers only open the adapter that they were assigned.

mod memory;

use crate::error::{self, Error};
use gannet_gpu_protocol::Gpu;

/// The features for timing whole submissions: timestamps that the encoder writes between passes, so that
/// copies, clears and uploads are timed like dispatches.
pub(crate) const TIMESTAMPS: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

pub(crate) fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
        // Debug layers are for developers of drivers. We validate kernels and commands before the driver sees them.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

pub(crate) fn adapters(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    error::ready(instance.enumerate_adapters(backends)).unwrap_or_default()
}

/// Lists the GPUs of this machine, the preferred one first: software adapters come last.
pub fn discover() -> Vec<Gpu> {
    let adapters = adapters(&instance());
    let mut gpus: Vec<Gpu> = (0u32..).zip(&adapters).map(|(index, adapter)| describe(index, adapter)).collect();
    gpus.sort_by_key(|gpu| gpu.software);
    gpus
}

/// Lists the GPUs like [`discover`], and opens each once to measure how much memory a device takes by itself.
pub fn measure() -> Vec<Gpu> {
    let adapters = adapters(&instance());
    let mut gpus = Vec::new();
    for (index, adapter) in (0u32..).zip(&adapters) {
        let mut gpu = describe(index, adapter);
        gpu.context_bytes = context_bytes(adapter, gpu.software).unwrap_or(0);
        gpus.push(gpu);
    }
    gpus.sort_by_key(|gpu| gpu.software);
    gpus
}

/// Returns how much memory an open device takes: the difference in free memory before and after opening it. For a
/// software driver, that is the process's resident memory.
fn context_bytes(adapter: &wgpu::Adapter, software: bool) -> Option<u64> {
    let free = || {
        let told = memory::query(adapter).and_then(|memory| memory.free).filter(|_| !software);
        told.or_else(|| Some(u64::MAX - resident_bytes()?))
    };
    let before = free()?;
    // The device stays open until free memory was measured again. The process ends soon after that.
    let _open = error::ready(adapter.request_device(&wgpu::DeviceDescriptor::default()))?.ok()?;
    Some(before.saturating_sub(free()?))
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the preferred one of the GPUs that [`discover`] returned: the first.
pub fn preferred(gpus: &[Gpu]) -> Result<&Gpu, Error> {
    gpus.first().ok_or_else(|| {
        Error::Unsupported("no gpu driver was found; on Debian: apt-get install mesa-vulkan-drivers".into())
    })
}

pub(crate) fn describe(index: u32, adapter: &wgpu::Adapter) -> Gpu {
    let info = adapter.get_info();
    let software = info.device_type == wgpu::DeviceType::Cpu;
    Gpu {
        index,
        name: info.name,
        backend: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        class: if software { "software" } else { "gpu" }.to_owned(),
        software,
        timestamps: adapter.features().contains(TIMESTAMPS),
        memory_bytes: memory::query(adapter).map_or(0, |memory| memory.total),
        context_bytes: 0,
    }
}
