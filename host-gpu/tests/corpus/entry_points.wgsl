@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
var<workgroup> sums: array<u32, 16>;
fn weight(x: u32) -> u32 { var s = 0u; for (var i = 0u; i < x % 9u; i++) { s += i * x; } return s; }

@compute @workgroup_size(16)
fn first(@builtin(global_invocation_id) id: vec3<u32>) { output[id.x + id.y * 500u + id.z * 2000u] = weight(id.x) + input[id.x]; }

@compute @workgroup_size(16)
fn second(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    sums[lane] = weight(lane + group.x);
    workgroupBarrier();
    output[(group.x + group.y * 20u + group.z * 100u) * 16u + lane] = sums[15u - lane] + group.z;
}

@compute @workgroup_size(1, 1, 8)
fn third(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) { output[id.x + id.y * n.x + id.z * n.x * n.y] = id.z * 11u + n.x; }
