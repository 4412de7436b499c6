//! The flag that a kernel sets when a loop budget runs out: four bytes on the device, in a bind group of their own. Beside
//! it is a word that is always 1 (see [`crate::harden`], `entry_point`).
//!
//! Slices run one after the other, so a device needs only one flag. A kernel sets it to the slice's number. Each slice
//! that can set the flag copies it into its header at its end.

use crate::harden::FLAG_BUFFER;

/// The flag's buffer, with the bind group through which kernels write it.
#[derive(Debug)]
pub(crate) struct BudgetFlag {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) group: wgpu::BindGroup,
}

/// Size of the flag in bytes.
pub(crate) const FLAG_SIZE: u64 = 4;

impl BudgetFlag {
    pub(crate) fn new(device: &wgpu::Device) -> Self {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: FLAG_BUFFER.len() as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        // If the device was lost, every budget is zero.
        if let Ok(mut bytes) = buffer.slice(..).get_mapped_range_mut() {
            bytes.copy_from_slice(&FLAG_BUFFER);
        }
        buffer.unmap();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: false },
                    has_dynamic_offset: false,
                    min_binding_size: std::num::NonZeroU64::new(FLAG_BUFFER.len() as u64),
                },
                count: None,
            }],
        });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
        });
        Self { buffer, layout, group }
    }
}
