//! One GPU device, opened for one tenant: an executor, the device's compiled kernels and the assets on it.
//!
//! ```text
//!  Device ┬─ KernelCompiler ─┬─▶ Executor ─▶ GPU thread
//!         └─ AssetTable ─────┘
//! ```
//!
//! A worker never drops its device, because dropping the queue waits for the GPU without a limit.
//! The process just ends.

mod open;

use crate::arbiter_link::ArbiterLink;
use crate::asset::{AssetFile, AssetPin, AssetTable, ResidentTotals};
use crate::check::Abilities;
use crate::compiler::KernelCompiler;
use crate::error::Error;
use crate::executor::{DeviceCounters, Executor};
use crate::harden::{BudgetUnit, Passes};
use crate::kernel::Kernel;
use crate::memory::MemoryQuota;
use crate::usage::{Payer, Usage};
use gannet_gpu_protocol::Gpu;
use std::collections::HashSet;
use std::sync::Arc;

pub use open::DeviceOptions;

/// An open device.
#[derive(Debug)]
pub struct Device {
    gpu: Gpu,
    executor: Arc<Executor>,
    memory: Arc<MemoryQuota>,
    compiler: Arc<KernelCompiler>,
    assets: Arc<AssetTable>,
}

impl Device {
    /// Opens the adapter at `index` of the driver's list, with a quota of `memory_max` bytes for everything
    /// that is allocated on it.
    pub fn open(index: u32, memory_max: u64) -> Result<Arc<Self>, Error> {
        Self::open_shared(DeviceOptions { index, class: None, memory_max, map_assets: true }, None)
    }

    /// Opens an adapter with options. With a link to an arbiter, which shares the GPU among processes, no work is
    /// submitted without a lease.
    pub fn open_shared(options: DeviceOptions, link: Option<ArbiterLink>) -> Result<Arc<Self>, Error> {
        Ok(Self::start(open::open(&options)?, options.memory_max, link))
    }

    /// Makes a device that runs no shader, for tests of quotas, validation and concurrency.
    pub fn noop(memory_max: u64) -> Arc<Self> {
        Self::noop_shared(memory_max, None)
    }

    /// Like [`Device::noop`], with a link to an arbiter.
    pub fn noop_shared(memory_max: u64, link: Option<ArbiterLink>) -> Arc<Self> {
        Self::start(open::open_noop(), memory_max, link)
    }

    fn start((device, queue, gpu): open::OpenedDevice, memory_max: u64, link: Option<ArbiterLink>) -> Arc<Self> {
        let abilities = abilities(&device, gpu.software);
        let executor = Executor::start(device, queue, gpu.software, link);
        let memory = MemoryQuota::new("tenant", memory_max, None);
        let compiler = Arc::new(KernelCompiler::new(Arc::clone(&executor), abilities, gpu.software));
        let assets = AssetTable::new(Arc::clone(&executor), &memory);
        Arc::new(Self { gpu, executor, memory, compiler, assets })
    }

    /// The GPU behind the device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The limits with which the device was opened.
    pub fn limits(&self) -> wgpu::Limits {
        self.executor.wgpu().limits()
    }

    /// What this device allows kernels to use.
    pub fn abilities(&self) -> Abilities {
        self.compiler.abilities()
    }

    /// Whether WGSL may `enable f16;`.
    pub fn has_f16(&self) -> bool {
        self.abilities().f16
    }

    /// Whether WGSL may `enable subgroups;`. It may if the device's subgroups have at least eight invocations.
    pub fn has_subgroups(&self) -> bool {
        self.abilities().subgroups
    }

    /// The memory quota that all sessions and assets share.
    pub fn memory(&self) -> &Arc<MemoryQuota> {
        &self.memory
    }

    /// Sets the function that is called when memory is short and no asset can be evicted. `free` drops something that
    /// is only kept for later use and returns whether there was anything. Only the first call has an effect.
    pub fn on_memory_pressure(&self, free: impl Fn() -> bool + Send + Sync + 'static) {
        self.assets.set_last_resort(free);
    }

    /// Number of round trips and GPU time since the device was opened.
    pub fn counters(&self) -> &DeviceCounters {
        self.executor.counters()
    }

    /// Destroys the device, as if its driver had lost it.
    pub fn destroy(&self) {
        self.executor.destroy();
    }

    /// Returns whether this process holds the lease on a shared GPU. If it ends while it does, the arbiter grants
    /// nobody the GPU before a probe.
    pub fn holds_gpu(&self) -> bool {
        self.executor.holds_gpu()
    }

    /// Returns whether the device was lost.
    pub fn is_lost(&self) -> bool {
        self.executor.is_lost()
    }

    /// The executor, which runs jobs on the device.
    pub(crate) fn executor(&self) -> &Arc<Executor> {
        &self.executor
    }
}

/// Kernels.
impl Device {
    /// Checks, compiles and tries a kernel, or returns it from the cache. The trial is charged to `payer`.
    /// Blocks: call it on a thread that may block.
    pub fn kernel(
        &self,
        wgsl: &str,
        entry: &str,
        constants: &[(String, f64)],
        payer: &Payer,
    ) -> Result<Arc<Kernel>, Error> {
        self.compiler.compile(wgsl, entry, constants, payer)
    }

    /// Like [`Device::kernel`], with a choice of hardening passes and without the cache, for comparing their results.
    pub fn kernel_with(
        &self,
        wgsl: &str,
        entry: &str,
        constants: &[(String, f64)],
        payer: &Payer,
        passes: Passes,
    ) -> Result<Arc<Kernel>, Error> {
        self.compiler.compile_with(wgsl, entry, constants, payer, passes)
    }

    /// Makes the driver load its compiler, which it does at the first compilation and which takes tens of milliseconds.
    /// Nothing runs, so no lease is needed. Blocks: call it on a thread that may block.
    pub fn warm(&self) -> Result<(), Error> {
        self.compiler.warm()
    }

    /// Replaces the set of kernels that may not run, by [`gannet_gpu_protocol::source_hash`].
    pub fn quarantine(&self, sources: HashSet<[u8; 32]>) {
        self.compiler.quarantine(sources);
    }

    /// Gives the driver cached pipelines, if there are any, and starts to collect those that it compiles from now on.
    /// Does nothing if the device has no pipeline cache.
    pub fn use_driver_cache(&self, data: Option<&[u8]>) {
        self.compiler.use_driver_cache(data);
    }

    /// Returns the pipelines that the driver has compiled since [`Device::use_driver_cache`]. None if there is no
    /// cache.
    pub fn driver_cache(&self) -> Option<Vec<u8>> {
        self.compiler.driver_cache()
    }

    /// The compiler of the device's kernels.
    pub(crate) fn compiler(&self) -> &Arc<KernelCompiler> {
        &self.compiler
    }
}

/// Assets.
impl Device {
    /// Number and size of the assets that are on the GPU now.
    pub fn resident_assets(&self) -> ResidentTotals {
        self.assets.totals()
    }

    /// Starts to upload an asset, if it is not on the GPU. Call it as soon as it is known that the asset will be used.
    /// The GPU time is charged to `payer`.
    pub fn prefetch_asset(&self, asset: &Arc<AssetFile>, payer: Option<&Arc<Usage>>) {
        self.assets.prefetch(asset, payer);
    }

    /// Uploads an asset, if it is not on the GPU, and keeps it there until the pin is dropped.
    pub async fn pin_asset(&self, asset: &Arc<AssetFile>) -> Result<AssetPin, Error> {
        self.assets.pin(asset).await
    }

    /// Evicts unused assets for whose digest `wanted` returns false.
    pub fn forget_assets(&self, wanted: impl Fn(&str) -> bool) {
        self.assets.forget(wanted);
    }

    /// The table of assets.
    pub(crate) fn assets(&self) -> &Arc<AssetTable> {
        &self.assets
    }
}

fn abilities(device: &wgpu::Device, software: bool) -> Abilities {
    let (features, limits) = (device.features(), device.limits());
    Abilities {
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        workgroup_memory_max: limits.max_compute_workgroup_storage_size,
        workgroup_invocations_max: limits.max_compute_invocations_per_workgroup,
        unit: if software { BudgetUnit::Iterations } else { BudgetUnit::Work },
    }
}
