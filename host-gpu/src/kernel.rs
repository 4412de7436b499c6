//! Compiled kernels: a pipeline, its bind group layouts, and the cache that holds them.
//!
//! A kernel is compiled once per device, source, entry and override values. Compiling ends with one
//! trial dispatch over the smallest buffers that fit, because software drivers compile at the
//! first dispatch: what is slow then happens here, where it is measured, and not in a request's
//! first batch.

use crate::check::{self, Abilities, Access, Checked, Variable};
use crate::session::Payer;
use crate::thread::Keep;
use crate::{Device, Error};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Kernels that a device keeps. A tenant that compiles more at run time loses the oldest.
const CACHE_MAX: usize = 256;

/// A kernel ready to dispatch.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layouts: Vec<wgpu::BindGroupLayout>,
    /// What a dispatch must bind, by group and index.
    pub variables: Vec<Variable>,
    /// Invocations of one workgroup.
    pub workgroup_size: [u32; 3],
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
        let checked = check::check(wgsl, entry, constants, self.abilities())?;
        // wgpu reads the module once more and writes it out, recursing as deeply as our own check did.
        let kernel = Arc::new(check::on_big_stack(|| self.compile(checked))?);
        self.trial(&kernel, payer)?;
        self.kernels.put(key, &kernel);
        Ok(kernel)
    }

    fn compile(&self, checked: Checked) -> Result<Kernel, Error> {
        let groups = checked.variables.iter().map(|v| v.group + 1).max().unwrap_or(0);
        let _creating = self.creation();
        let Checked { module, entry, variables, workgroup_size } = checked;
        let made = self.scoped(|device| {
            let layouts: Vec<_> = (0..groups).map(|group| layout(device, group, &variables)).collect();
            let references: Vec<_> = layouts.iter().map(Some).collect();
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &references,
                immediate_size: 0,
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
                cache: None,
            });
            (pipeline, layouts)
        });
        let (pipeline, layouts) = made.map_err(|error| match error {
            Error::InvalidArgument(text) => Error::KernelRejected(text),
            other => other,
        })?;
        Ok(Kernel { pipeline, layouts, variables, workgroup_size })
    }

    /// Dispatches one workgroup over the smallest zeroed buffers that fit and waits for it.
    fn trial(&self, kernel: &Kernel, payer: &Payer) -> Result<(), Error> {
        let limits = self.limits();
        let mut charges = Vec::new();
        for variable in &kernel.variables {
            let most = match variable.access {
                Access::Uniform => limits.max_uniform_buffer_binding_size,
                Access::Read | Access::ReadWrite => limits.max_storage_buffer_binding_size,
            };
            if variable.size_min > most {
                return Err(Error::KernelRejected(format!(
                    "variable {:?} needs {} bytes; the device binds at most {most}",
                    variable.name, variable.size_min
                )));
            }
            charges.push(payer.memory.charge(trial_size(variable))?);
        }
        let encoded = self.scoped(|device| {
            let buffers: Vec<_> = kernel.variables.iter().map(|v| trial_buffer(device, v)).collect();
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pass.set_pipeline(&kernel.pipeline);
                for (group, layout) in (0u32..).zip(&kernel.layouts) {
                    let entries: Vec<_> = kernel
                        .variables
                        .iter()
                        .zip(&buffers)
                        .filter(|(v, _)| v.group == group)
                        .map(|(v, buffer)| wgpu::BindGroupEntry {
                            binding: v.index,
                            resource: buffer.as_entire_binding(),
                        })
                        .collect();
                    let bind_group =
                        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
                    pass.set_bind_group(group, &bind_group, &[]);
                }
                pass.dispatch_workgroups(1, 1, 1);
            }
            encoder.finish()
        })?;
        let (mut job, done) = crate::thread::Job::bare(encoded);
        job.keep.extend(charges.into_iter().map(Keep::Charge));
        job.usage = Some(Arc::clone(&payer.usage));
        self.jobs.blocking_send(job).map_err(|_| Error::lost())?;
        done.blocking_recv().map_err(|_| Error::lost())?.map(|_| ())
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

fn trial_size(variable: &Variable) -> u64 {
    variable.size_min.next_multiple_of(16)
}

fn trial_buffer(device: &wgpu::Device, variable: &Variable) -> wgpu::Buffer {
    let usage = match variable.access {
        Access::Uniform => wgpu::BufferUsages::UNIFORM,
        Access::Read | Access::ReadWrite => wgpu::BufferUsages::STORAGE,
    };
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: trial_size(variable),
        usage,
        mapped_at_creation: false,
    })
}
