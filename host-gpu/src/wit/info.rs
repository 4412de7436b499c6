//! Implements `gannet:gpu/info`: class, limits and features of the function's GPU.

use super::GpuCtxView;
use super::interfaces::info::{Device, Features, Host, Limits};

impl Host for GpuCtxView<'_> {
    fn get(&mut self) -> wasmtime::Result<Device> {
        let session = self.session.open()?;
        let device = session.device();
        let limits = device.limits();
        Ok(Device {
            class: device.gpu().class.clone(),
            limits: Limits {
                buffer_size_max: limits.max_buffer_size,
                storage_binding_size_max: limits.max_storage_buffer_binding_size,
                uniform_binding_size_max: limits.max_uniform_buffer_binding_size,
                storage_binding_alignment: limits.min_storage_buffer_offset_alignment,
                uniform_binding_alignment: limits.min_uniform_buffer_offset_alignment,
                storage_bindings_max: limits.max_storage_buffers_per_shader_stage,
                workgroup_invocations_max: limits.max_compute_invocations_per_workgroup,
                workgroup_size_max: (
                    limits.max_compute_workgroup_size_x,
                    limits.max_compute_workgroup_size_y,
                    limits.max_compute_workgroup_size_z,
                ),
                workgroup_memory_max: limits.max_compute_workgroup_storage_size,
                workgroups_per_dimension_max: limits.max_compute_workgroups_per_dimension,
                gpu_memory_max: session.limits().memory_bytes,
            },
            features: Features { f16: device.has_f16(), subgroups: device.has_subgroups() },
        })
    }
}
