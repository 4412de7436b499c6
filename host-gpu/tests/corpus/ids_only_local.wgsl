@group(0) @binding(0) var<storage, read_write> output: array<atomic<u32>, 64>;

@compute @workgroup_size(4, 4, 4)
fn main(@builtin(local_invocation_id) local: vec3<u32>) {
    atomicAdd(&output[local.x + local.y * 4u + local.z * 16u], local.x + 1u);
}
