@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
var<workgroup> shared_values: array<u32, 64>;
fn fill(lane: u32, seed: u32) {
    for (var i = 0u; i < 4u; i++) { shared_values[lane] = seed + i; workgroupBarrier(); }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) groups: vec3<u32>) {
    let group_index = group.x + group.y * groups.x + group.z * groups.x * groups.y;
    fill(lane, group_index);
    output[group_index * 64u + lane] = shared_values[(lane * 5u) % 64u];
}
