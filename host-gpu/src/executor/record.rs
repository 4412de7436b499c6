//! Records a slice as one command buffer: the begin timestamp, the parts in order (consecutive dispatches share a
//! pass), the end timestamp, then copies of timestamps and flag into the header. Everything between the two timestamps
//! is charged.

use super::budget_flag::{BudgetFlag, FLAG_SIZE};
use super::job::{Job, Step};
use super::slice::{SlicePlan, StepPart};
use super::slice_meter::{FLAG_OFFSET, HEADER_SIZE, SliceMeter, TIMESTAMPS_SIZE};
use crate::harden::{FLAG_GROUP, Immediates};
use crate::kernel::Kernel;
use std::sync::Arc;

/// Records one slice. `header` receives its timestamps and the flag. The flag is `number` if a loop budget ran out in
/// this slice.
pub(crate) fn slice(
    device: &wgpu::Device,
    flag: &BudgetFlag,
    job: &Job,
    plan: &SlicePlan,
    meter: &SliceMeter,
    header: &wgpu::Buffer,
    number: u32,
) -> wgpu::CommandBuffer {
    let steps = &job.steps;
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    if let Some((set, _)) = &meter.timestamps {
        encoder.write_timestamp(set, 0);
    }
    let has_counted_loops = plan.parts.iter().any(|(step, _)| match steps.get(*step) {
        Some(Step::Dispatch { kernel, .. }) => kernel.report.has_counted_loops,
        _ => false,
    });
    let mut rest = plan.parts.as_slice();
    while let Some((step, part)) = rest.first() {
        let run = rest.iter().take_while(|(_, part)| matches!(part, StepPart::Grid(_))).count();
        let (now, after) = rest.split_at(run.max(1));
        match part {
            StepPart::Grid(_) => dispatches(flag, &mut encoder, job, now, number),
            StepPart::Bytes { from, size } => bytes(&mut encoder, steps.get(*step), *from, *size),
        }
        rest = after;
    }
    if let Some((set, resolved)) = &meter.timestamps {
        encoder.write_timestamp(set, 1);
        encoder.resolve_query_set(set, 0..2, resolved, 0);
        encoder.copy_buffer_to_buffer(resolved, 0, header, 0, TIMESTAMPS_SIZE);
    }
    if has_counted_loops {
        encoder.copy_buffer_to_buffer(&flag.buffer, 0, header, FLAG_OFFSET, FLAG_SIZE);
    } else {
        encoder.clear_buffer(header, FLAG_OFFSET, Some(HEADER_SIZE - FLAG_OFFSET));
    }
    encoder.finish()
}

fn bytes(encoder: &mut wgpu::CommandEncoder, step: Option<&Step>, from: u64, size: u64) {
    match step {
        Some(Step::Copy { source, source_offset, target, target_offset, .. }) => {
            encoder.copy_buffer_to_buffer(source, source_offset + from, target, target_offset + from, size);
        }
        Some(Step::Clear { target, offset, .. }) => encoder.clear_buffer(target, offset + from, Some(size)),
        Some(Step::Dispatch { .. }) | None => {}
    }
}

fn dispatches(
    flag: &BudgetFlag,
    encoder: &mut wgpu::CommandEncoder,
    job: &Job,
    parts: &[(usize, StepPart)],
    number: u32,
) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    let mut pipeline: Option<*const Kernel> = None;
    let mut bound: Option<*const wgpu::BindGroup> = None;
    for (step, step_part) in parts {
        let (Some(Step::Dispatch { kernel, groups, grid }), StepPart::Grid(part)) = (job.steps.get(*step), step_part)
        else {
            continue;
        };
        let this = Arc::as_ptr(kernel);
        if pipeline != Some(this) {
            pass.set_pipeline(&kernel.pipeline);
            if kernel.report.has_counted_loops {
                pass.set_bind_group(FLAG_GROUP, &flag.group, &[]);
            }
            (pipeline, bound) = (Some(this), None);
        }
        if bound != Some(groups.as_ptr()) {
            for (group, bind_group) in (0u32..).zip(groups.iter()) {
                pass.set_bind_group(group, bind_group, &[]);
            }
            bound = Some(groups.as_ptr());
        }
        if kernel.report.immediates {
            let budgets = kernel.budgets(job.loop_work);
            let immediates = Immediates {
                base: part.base,
                budget: budgets.divergent,
                grid: *grid,
                uniform_budget: budgets.uniform,
                slice: number,
                unused: [0; 3],
            };
            pass.set_immediates(0, bytemuck::bytes_of(&immediates));
        }
        let [x, y, z] = part.size;
        pass.dispatch_workgroups(x, y, z);
    }
}
