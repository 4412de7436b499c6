//! Creates the pipeline of a checked kernel.

use crate::check::{Access, CheckedKernel, Variable};
use crate::error::Error;
use crate::executor::Executor;
use crate::harden::{BudgetUnit, FLAG_GROUP, IMMEDIATES_SIZE};
use crate::kernel::{Kernel, Pace};

/// The parameters of [`make`] besides the kernel.
pub(super) struct Options<'a> {
    pub(super) source_hash: [u8; 32],
    /// What the kernel's loop budgets count.
    pub(super) unit: BudgetUnit,
    /// Whether the kernel was hardened so that it can run in parts.
    pub(super) sliceable: bool,
    /// The driver's pipeline cache, if it is in use.
    pub(super) cache: Option<&'a wgpu::PipelineCache>,
}

/// Creates a kernel's pipeline and its bind group layouts.
pub(super) fn make(executor: &Executor, checked: CheckedKernel, options: &Options<'_>) -> Result<Kernel, Error> {
    let groups = checked.variables.iter().map(|v| v.group + 1).max().unwrap_or(0);
    let CheckedKernel { module, entry, variables, workgroup_size, report } = checked;
    let made = executor.scoped(|device| {
        let layouts: Vec<_> = (0..groups).map(|group| layout(device, group, &variables)).collect();
        let mut references: Vec<_> = layouts.iter().map(Some).collect();
        if report.has_counted_loops {
            references.resize(FLAG_GROUP as usize, None);
            references.push(Some(executor.flag_layout()));
        }
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &references,
            immediate_size: if report.immediates { IMMEDIATES_SIZE } else { 0 },
        });
        // Never use `create_shader_module_trusted` here: this call inserts the bounds checks.
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
            cache: options.cache,
        });
        (pipeline, layouts)
    });
    let (pipeline, layouts) = made.map_err(|error| match error {
        Error::InvalidArgument(text) => Error::KernelRejected(text),
        other => other,
    })?;
    Ok(Kernel {
        source_hash: options.source_hash,
        pipeline,
        layouts,
        variables,
        workgroup_size,
        entry,
        report,
        unit: options.unit,
        sliceable: options.sliceable,
        pace: Pace::default(),
    })
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
