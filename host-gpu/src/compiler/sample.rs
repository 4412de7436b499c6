//! The WGSL of a small kernel, for warming up a driver and for probing a GPU.

/// It has workgroup memory, a barrier and a loop, as typical kernels have.
pub(crate) const SAMPLE_WGSL: &str = "
@group(0) @binding(0) var<storage, read_write> data: array<u32, 256>;
var<workgroup> shared_data: array<u32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    shared_data[local] = id.x;
    workgroupBarrier();
    var sum = 0u;
    for (var i = 0u; i < 64u; i++) { sum += shared_data[i]; }
    data[id.x] = sum + id.x;
}";
