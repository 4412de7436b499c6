@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
struct One { @builtin(workgroup_id) group: vec3<u32> }
struct Two { @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) groups: vec3<u32> }

@compute @workgroup_size(8, 4)
fn main(one: One, two: Two, @builtin(global_invocation_id) id: vec3<u32>) {
    let group = one.group.x + one.group.y * two.groups.x + one.group.z * two.groups.x * two.groups.y;
    output[group * 32u + two.lane] = id.x * 3u + id.y * 5u + id.z * 7u;
}
