@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
struct Ids {
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(global_invocation_id) global: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
}

@compute @workgroup_size(4, 2, 3)
fn main(ids: Ids, @builtin(local_invocation_index) lane: u32) {
    let group = ids.group.x + ids.group.y * ids.groups.x + ids.group.z * ids.groups.x * ids.groups.y;
    output[group * 24u + lane] = ids.global.x + ids.global.y * 100u + ids.global.z * 10000u + ids.local.z * 7u + ids.groups.y;
}
