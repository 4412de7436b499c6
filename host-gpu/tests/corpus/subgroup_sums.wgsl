enable subgroups;
@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_invocation_id) sub: u32, @builtin(subgroup_size) size: u32) {
    let index = group.x + group.y * n.x + group.z * n.x * n.y;
    let value = input[(index * 64u + lane) % 4096u] % 1000u;
    let sum = subgroupAdd(value);
    let first = subgroupBroadcastFirst(value);
    let most = subgroupMax(value) - subgroupMin(value);
    let before = subgroupExclusiveAdd(value);
    output[index * 64u + lane] = sum + first * 3u + most * 5u + before * 7u + sub;
}
