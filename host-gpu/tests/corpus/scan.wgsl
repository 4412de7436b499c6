@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
var<workgroup> values: array<array<u32, 64>, 2>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) groups: vec3<u32>) {
    let group_index = group.x + group.y * groups.x + group.z * groups.x * groups.y;
    values[0][lane] = input[(group_index + lane) % 2048u] % 16u;
    workgroupBarrier();
    var side = 0u;
    for (var d = 1u; d < 64u; d *= 2u) {
        var sum = values[side][lane];
        if lane >= d { sum += values[side][lane - d]; }
        values[1u - side][lane] = sum;
        side = 1u - side;
        workgroupBarrier();
    }
    output[group_index * 64u + lane] = values[side][lane];
}
