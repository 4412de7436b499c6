//! Compiled kernels: a pipeline, its bind group layouts, and the cache that holds them.
//!
//! A kernel is compiled once per device, source, entry and override values. Compiling ends with one
//! trial dispatch over the smallest buffers that fit, because software drivers compile at the
//! first dispatch: what is slow then happens here, where it is measured, and not in a request's
//! first batch.

use crate::check::{self, Abilities, Access, Checked, Variable};
use crate::harden::{FLAG_GROUP, IMMEDIATES_SIZE, Outcome, Passes, Unit};
use crate::pace::Pace;
use crate::session::Payer;
use crate::{Device, Error};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Kernels that a device keeps. A tenant that compiles more at run time loses the oldest.
const CACHE_MAX: usize = 256;

/// A kernel ready to dispatch.
#[derive(Debug)]
pub struct Kernel {
    /// Names its source and entry point, whatever its constants.
    pub(crate) source_hash: [u8; 32],
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layouts: Vec<wgpu::BindGroupLayout>,
    /// What a dispatch must bind, by group and index.
    pub variables: Vec<Variable>,
    /// Invocations of one workgroup.
    pub workgroup_size: [u32; 3],
    /// Whether it sets the flag when a loop budget runs out, and so needs it bound.
    pub(crate) counts: bool,
    /// Whether it reads immediates.
    pub(crate) immediates: bool,
    /// The loop budgets of one invocation, and what they count.
    pub(crate) budget: Budget,
    pub(crate) unit: Unit,
    /// Whether it can run in parts: all can but those that were made for comparison.
    pub(crate) sliceable: bool,
    /// How fast it runs.
    pub(crate) pace: Pace,
}

impl Kernel {
    /// Cuts its dispatches into parts of at most so many workgroups, however fast it is; 0 for no such limit.
    pub fn cut_at(&self, workgroups: u64) {
        self.pace.cap(workgroups);
    }

    /// What its budgets count, in words.
    pub(crate) fn budget_unit(&self) -> &'static str {
        match self.unit {
            Unit::Work => "operations",
            Unit::Iterations => "iterations",
        }
    }
}

/// What the loops of one invocation may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Those it runs for itself.
    pub(crate) apart: u32,
    /// Those that all invocations of a workgroup run together.
    pub(crate) together: u32,
}

/// Weighted operations that loops of one invocation may spend on a GPU: measured on an H100, no endless
/// kernel of the tests then takes 20 ms.
pub const WORK_MAX: u32 = 1 << 22;
/// Iterations that a software driver lets an invocation make before it ends its loops in silence, less a few.
pub const SOFTWARE_ITERATIONS_MAX: u32 = 65_000;
/// Invocations that a software driver runs in step: their iterations may add up, where each has its own.
const SOFTWARE_LANES: u32 = 8;

impl Budget {
    /// The budget of a kernel on a device whose budgets count in `unit`.
    pub(crate) fn of(hardened: Outcome, unit: Unit) -> Self {
        match unit {
            Unit::Work => Self { apart: WORK_MAX, together: WORK_MAX },
            Unit::Iterations => {
                // The driver's own count covers both kinds of loops, and those that are not counted here.
                let fixed = u32::try_from(hardened.iterations).unwrap_or(u32::MAX);
                let mut left = SOFTWARE_ITERATIONS_MAX.saturating_sub(fixed);
                if hardened.apart && hardened.together {
                    left /= 2;
                }
                let apart = if hardened.apart_often { left / SOFTWARE_LANES } else { left };
                Self { apart, together: left }
            }
        }
    }
}

/// A kernel as a component declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The WGSL.
    pub wgsl: Arc<str>,
    /// The entry point.
    pub entry: String,
}

/// The kernels that a version of a function declared, by name.
pub type Catalog = HashMap<String, Declared>;

/// Names the kernels of one declared source: its own name when the module has one entry point,
/// `name/entry` when it has several.
pub fn declare(name: &str, wgsl: &str) -> Result<Vec<(String, Declared)>, Error> {
    let entries = check::entry_points(wgsl)?;
    if entries.is_empty() {
        return Err(Error::KernelRejected("the module has no compute entry point".into()));
    }
    let single = entries.len() == 1;
    let wgsl: Arc<str> = wgsl.into();
    let named = entries.into_iter().map(|entry| {
        let full = if single { name.to_owned() } else { format!("{name}/{entry}") };
        (full, Declared { wgsl: Arc::clone(&wgsl), entry })
    });
    Ok(named.collect())
}

type Key = [u8; 32];

/// Kernels by key, each with when it was last used, counted in uses.
#[derive(Debug, Default)]
struct Held {
    kernels: HashMap<Key, (Arc<Kernel>, u64)>,
    uses: u64,
}

#[derive(Debug, Default)]
pub(crate) struct KernelCache {
    held: Mutex<Held>,
}

impl KernelCache {
    fn get(&self, key: &Key) -> Option<Arc<Kernel>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.uses += 1;
        let now = held.uses;
        let (kernel, used) = held.kernels.get_mut(key)?;
        *used = now;
        Some(Arc::clone(kernel))
    }

    fn put(&self, key: Key, kernel: &Arc<Kernel>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = held.uses;
        if held.kernels.len() >= CACHE_MAX
            && let Some(oldest) = held.kernels.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            held.kernels.remove(&oldest);
        }
        held.kernels.insert(key, (Arc::clone(kernel), now));
    }
}

/// Names a source and an entry point.
pub fn source_hash(wgsl: &str, entry: &str) -> [u8; 32] {
    key(wgsl, entry, &[])
}

fn key(wgsl: &str, entry: &str, constants: &[(String, f64)]) -> Key {
    let mut hash = Sha256::new();
    for part in [wgsl, entry] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for (name, value) in constants {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(value.to_bits().to_le_bytes());
    }
    hash.finalize().into()
}

impl Device {
    /// What this device allows kernels to use.
    pub fn abilities(&self) -> Abilities {
        let limits = self.limits();
        Abilities {
            f16: self.has_f16(),
            subgroups: self.has_subgroups(),
            workgroup_memory_max: limits.max_compute_workgroup_storage_size,
            workgroup_invocations_max: limits.max_compute_invocations_per_workgroup,
            unit: if self.gpu().software { Unit::Iterations } else { Unit::Work },
        }
    }

    /// The kernel from the cache, if it was compiled before.
    pub fn cached_kernel(&self, wgsl: &str, entry: &str, constants: &[(String, f64)]) -> Option<Arc<Kernel>> {
        self.kernels.get(&key(wgsl, entry, constants))
    }

    /// Checks, compiles and tries a kernel, or takes it from the cache; the trial is charged to `payer`.
    /// Slow: call it where blocking is allowed.
    pub fn kernel(
        &self,
        wgsl: &str,
        entry: &str,
        constants: &[(String, f64)],
        payer: &Payer,
    ) -> Result<Arc<Kernel>, Error> {
        let key = key(wgsl, entry, constants);
        if let Some(kernel) = self.kernels.get(&key) {
            return Ok(kernel);
        }
        let kernel = self.kernel_with(wgsl, entry, constants, payer, Passes::all(self.abilities().unit))?;
        self.kernels.put(key, &kernel);
        Ok(kernel)
    }

    /// Checks, compiles and tries a kernel with a choice of passes, past the cache: for comparing what they make.
    pub fn kernel_with(
        &self,
        wgsl: &str,
        entry: &str,
        constants: &[(String, f64)],
        payer: &Payer,
        passes: Passes,
    ) -> Result<Arc<Kernel>, Error> {
        let began = Instant::now();
        let checked = check::check_with(wgsl, entry, constants, self.abilities(), passes)?;
        let checked_us = began.elapsed().as_micros();
        // wgpu reads the module once more and writes it out, recursing as deeply as our own check did.
        let source = source_hash(wgsl, entry);
        let kernel = Arc::new(check::on_big_stack(|| self.compile(checked, source, passes.slice))?);
        let compiled_us = began.elapsed().as_micros();
        self.trial(&kernel, payer, if self.gpu().software { &[[0; 3], [1; 3]] } else { &[[1; 3]] })?;
        tracing::debug!(entry, checked_us, compiled_us, tried_us = began.elapsed().as_micros(), "a kernel was made");
        Ok(kernel)
    }

    pub(crate) fn compile(&self, checked: Checked, source_hash: [u8; 32], sliceable: bool) -> Result<Kernel, Error> {
        let groups = checked.variables.iter().map(|v| v.group + 1).max().unwrap_or(0);
        let _creating = self.creation();
        let Checked { module, entry, variables, workgroup_size, hardened } = checked;
        let unit = self.abilities().unit;
        let cache = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let made = self.scoped(|device| {
            let layouts: Vec<_> = (0..groups).map(|group| layout(device, group, &variables)).collect();
            let mut references: Vec<_> = layouts.iter().map(Some).collect();
            if hardened.counts {
                references.resize(FLAG_GROUP as usize, None);
                references.push(Some(&self.flag.layout));
            }
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &references,
                immediate_size: if hardened.immediates { IMMEDIATES_SIZE } else { 0 },
            });
            // Never `create_shader_module_trusted`: this is where bounds checks are put in.
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(&entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    // Another tenant's workgroup memory must not be readable (CVE-2023-4969).
                    zero_initialize_workgroup_memory: true,
                },
                cache: cache.as_ref(),
            });
            (pipeline, layouts)
        });
        let (pipeline, layouts) = made.map_err(|error| match error {
            Error::InvalidArgument(text) => Error::KernelRejected(text),
            other => other,
        })?;
        let Outcome { counts, immediates, .. } = hardened;
        let budget = Budget::of(hardened, unit);
        Ok(Kernel {
            source_hash,
            pipeline,
            layouts,
            variables,
            workgroup_size,
            counts,
            immediates,
            budget,
            unit,
            sliceable,
            pace: Pace::default(),
        })
    }
}

fn layout(device: &wgpu::Device, group: u32, variables: &[Variable]) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = variables
        .iter()
        .filter(|v| v.group == group)
        .map(|v| wgpu::BindGroupLayoutEntry {
            binding: v.index,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match v.access {
                    Access::Uniform => wgpu::BufferBindingType::Uniform,
                    Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                    Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: false,
                min_binding_size: std::num::NonZeroU64::new(v.size_min),
            },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}
