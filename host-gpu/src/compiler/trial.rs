//! Trial dispatches: the last step of compiling a kernel, which shows whether the driver can run it.
//!
//! A software driver compiles at the first dispatch. A dispatch without workgroups makes it compile without a lease, so
//! that others can use the GPU meanwhile. On software drivers such a dispatch comes before the one that runs.

use crate::check::{Access, Variable};
use crate::error::Error;
use crate::executor::{Executor, Job, Step};
use crate::grid::Grid;
use crate::kernel::Kernel;
use crate::usage::Payer;
use std::sync::Arc;

/// Dispatches the kernel over each of `grids`, with the smallest zeroed buffers that fit, and waits for the results.
pub(super) fn run(executor: &Executor, kernel: &Arc<Kernel>, payer: &Payer, grids: &[Grid]) -> Result<(), Error> {
    let limits = executor.wgpu().limits();
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
    // The bind groups are declared after the charges, so that they are dropped before them.
    let groups = executor.scoped(|device| {
        let buffers: Vec<_> = kernel.variables.iter().map(|v| trial_buffer(device, v)).collect();
        let groups = (0u32..).zip(&kernel.layouts).map(|(group, layout)| {
            let entries: Vec<_> = kernel
                .variables
                .iter()
                .zip(&buffers)
                .filter(|(v, _)| v.group == group)
                .map(|(v, buffer)| wgpu::BindGroupEntry { binding: v.index, resource: buffer.as_entire_binding() })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
        });
        groups.collect::<Arc<[_]>>()
    })?;
    for grid in grids {
        let steps = vec![Step::Dispatch { kernel: Arc::clone(kernel), groups: Arc::clone(&groups), grid: *grid }];
        let (mut job, done) = Job::new(steps);
        job.usage = Some(Arc::clone(&payer.usage));
        job.compiles = *grid == [0; 3];
        executor.send_blocking(job)?;
        match done.blocking_recv().map_err(|_| Error::lost())? {
            // Zeroed data may make a correct kernel loop forever. It only matters that the dispatch ended. Its pace
            // says nothing about real work.
            Ok(_) | Err(Error::BudgetExhausted(_)) => kernel.pace.forget(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
