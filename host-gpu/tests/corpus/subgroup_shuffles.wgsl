// Reads the values of other invocations, all of which are active.
enable subgroups;

@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

struct Ids {
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
}

fn rotated(value: u32, lane: u32, size: u32) -> u32 { return subgroupShuffle(value, (lane + 1u) % size); }

@compute @workgroup_size(64)
fn main(ids: Ids, @builtin(subgroup_size) size: u32) {
    let value = data[ids.id.x];
    var sum = rotated(value, ids.lane, size) ^ subgroupShuffleXor(value, 1u) ^ subgroupBroadcast(value, 2u);
    let below = subgroupShuffleUp(value, 1u);
    if ids.lane > 0u { sum += below; }
    let above = subgroupShuffleDown(vec2<f32>(f32(value % 100u), 2.0), 1u);
    if ids.lane + 1u < size { sum += u32(above.x * above.y); }
    for (var i = 0u; i < data[1] % 4u; i++) {
        let next = quadSwapX(sum);
        sum = next + quadBroadcast(sum, 1u) + subgroupBroadcastFirst(sum);
    }
    out[ids.id.x] = sum;
}
