@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
var<workgroup> shared_values: array<u32, 64>;
var<workgroup> limit: u32;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) groups: vec3<u32>) {
    let group_index = group.x + group.y * groups.x + group.z * groups.x * groups.y;
    if lane == 0u { limit = group_index % 7u + 2u; }
    let n = workgroupUniformLoad(&limit);
    var sum = lane;
    for (var i = 0u; i < n; i++) { shared_values[lane] = sum; workgroupBarrier(); sum += shared_values[(lane + i) % 64u]; workgroupBarrier(); }
    output[group_index * 64u + lane] = sum;
}
