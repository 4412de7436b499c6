//! Compiles kernels for one device: checks a kernel, creates its pipeline, tries it, and caches it.
//!
//! ```text
//!  WGSL ─▶ cached? ─no─▶ check and harden ─▶ pipeline ─▶ trial dispatch ─▶ cache ─▶ Kernel
//! ```
//!
//! A kernel is compiled once per device, source, entry point and override values. A compilation ends with a
//! trial dispatch over the smallest buffers that fit, because software drivers compile at the
//! first dispatch. So that slow part happens here, where it is measured, and not in a request's
//! first batch.
//!
//! Invariant: pipelines are created under one lock, because some drivers crash if two are created at once.

pub mod compilation;
mod driver_cache;
mod kernel_cache;
mod pipeline;
mod sample;
mod trial;

use crate::check::{self, Abilities, CheckedKernel};
use crate::error::Error;
use crate::executor::Executor;
use crate::grid::Grid;
use crate::harden::Passes;
use crate::kernel::{Kernel, kernel_hash};
use crate::memory::MemoryQuota;
use crate::usage::Payer;
use driver_cache::DriverCache;
use gannet_gpu_protocol::source_hash;
use kernel_cache::KernelCache;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub(crate) use sample::SAMPLE_WGSL;

/// Limit of GPU memory for warming up, in bytes.
const WARM_BYTES_MAX: u64 = 1 << 20;
/// The grid of a dispatch without workgroups, which makes a software driver compile and computes nothing.
const NO_WORKGROUP: Grid = [0; 3];

/// Compiles kernels for one device.
#[derive(Debug)]
pub(crate) struct KernelCompiler {
    executor: Arc<Executor>,
    abilities: Abilities,
    /// Whether the driver is a software driver, which compiles at the first dispatch.
    software: bool,
    cache: KernelCache,
    driver_cache: DriverCache,
    /// Kernels that may not run, by [`source_hash`].
    quarantined: Mutex<HashSet<[u8; 32]>>,
    /// Held while a pipeline is created.
    creation: Mutex<()>,
}

impl KernelCompiler {
    pub(crate) fn new(executor: Arc<Executor>, abilities: Abilities, software: bool) -> Self {
        Self {
            executor,
            abilities,
            software,
            cache: KernelCache::default(),
            driver_cache: DriverCache::default(),
            quarantined: Mutex::default(),
            creation: Mutex::new(()),
        }
    }

    /// What the device allows kernels to use.
    pub(crate) fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Replaces the set of kernels that may not run, by [`source_hash`].
    pub(crate) fn quarantine(&self, sources: HashSet<[u8; 32]>) {
        *self.quarantined.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    fn is_quarantined(&self, source: &[u8; 32]) -> bool {
        self.quarantined.lock().unwrap_or_else(PoisonError::into_inner).contains(source)
    }

    /// See [`DriverCache::start`].
    pub(crate) fn use_driver_cache(&self, data: Option<&[u8]>) {
        self.driver_cache.start(&self.executor, data);
    }

    /// See [`DriverCache::data`].
    pub(crate) fn driver_cache(&self) -> Option<Vec<u8>> {
        self.driver_cache.data()
    }

    /// Returns the kernel from the cache, if it is there.
    pub(crate) fn cached(&self, wgsl: &str, entry: &str, constants: &[(String, f64)]) -> Option<Arc<Kernel>> {
        self.cache.get(&kernel_hash(wgsl, entry, constants))
    }

    /// Checks, compiles and tries a kernel, or returns it from the cache. The trial is charged to `payer`.
    /// Blocks: call it on a thread that may block.
    pub(crate) fn compile(
        &self,
        wgsl: &str,
        entry: &str,
        constants: &[(String, f64)],
        payer: &Payer,
    ) -> Result<Arc<Kernel>, Error> {
        let hash = kernel_hash(wgsl, entry, constants);
        if let Some(kernel) = self.cache.get(&hash) {
            return Ok(kernel);
        }
        let kernel = self.compile_with(wgsl, entry, constants, payer, Passes::all(self.abilities.unit))?;
        self.cache.put(hash, &kernel);
        Ok(kernel)
    }

    /// Like [`KernelCompiler::compile`], with a choice of hardening passes and without the cache.
    pub(crate) fn compile_with(
        &self,
        wgsl: &str,
        entry: &str,
        constants: &[(String, f64)],
        payer: &Payer,
        passes: Passes,
    ) -> Result<Arc<Kernel>, Error> {
        let began = Instant::now();
        let checked = check::check_with(wgsl, entry, constants, self.abilities, passes)?;
        let checked_us = began.elapsed().as_micros();
        let kernel = self.make_pipeline(checked, source_hash(wgsl, entry), passes.sliceable)?;
        let compiled_us = began.elapsed().as_micros();
        let grids: &[Grid] = if self.software { &[NO_WORKGROUP, [1; 3]] } else { &[[1; 3]] };
        trial::run(&self.executor, &kernel, payer, grids)?;
        tracing::debug!(entry, checked_us, compiled_us, tried_us = began.elapsed().as_micros(), "a kernel was made");
        Ok(kernel)
    }

    /// Makes the driver load its compiler, which it does at the first compilation and which takes tens of milliseconds.
    /// Nothing runs, so no lease is needed. Blocks: call it on a thread that may block.
    pub(crate) fn warm(&self) -> Result<(), Error> {
        let (wgsl, entry) = (SAMPLE_WGSL, "main");
        let checked = check::check_with(wgsl, entry, &[], self.abilities, Passes::all(self.abilities.unit))?;
        let kernel = self.make_pipeline(checked, source_hash(wgsl, entry), true)?;
        let payer = Payer { memory: MemoryQuota::new("warm", WARM_BYTES_MAX, None), usage: Arc::default() };
        trial::run(&self.executor, &kernel, &payer, if self.software { &[NO_WORKGROUP] } else { &[] })
    }

    fn make_pipeline(
        &self,
        checked: CheckedKernel,
        source_hash: [u8; 32],
        sliceable: bool,
    ) -> Result<Arc<Kernel>, Error> {
        // wgpu validates the module again and translates it. It recurses as deeply as our own check.
        let made = check::on_big_stack(|| {
            let _creating = self.creation.lock().unwrap_or_else(PoisonError::into_inner);
            let cache = self.driver_cache.get();
            let options =
                pipeline::Options { source_hash, unit: self.abilities.unit, sliceable, cache: cache.as_ref() };
            pipeline::make(&self.executor, checked, &options)
        })?;
        Ok(Arc::new(made))
    }
}
