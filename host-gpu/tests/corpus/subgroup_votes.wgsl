enable subgroups;
@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = group.x + group.y * n.x + group.z * n.x * n.y;
    let value = input[(index * 64u + lane) % 4096u];
    var bits = 0u;
    for (var i = 0u; i < 4u; i++) {
        let votes = subgroupBallot((value >> i) % 2u == 1u);
        bits += countOneBits(votes.x) * (i + 1u);
    }
    if group.x % 2u == 0u { bits += select(0u, 1000u, subgroupAny(value % 5u == 0u)) + select(0u, 2000u, subgroupAll(value < 4000000000u)); }
    output[index * 64u + lane] = bits + subgroupShuffleXor(value % 100u, 1u);
}
