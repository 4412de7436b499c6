// The size of subgroups is the same for a whole workgroup, so a barrier may follow a return that depends on it.
enable subgroups;

@group(0) @binding(0) var<storage, read_write> out: array<u32>;

var<workgroup> tile: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(subgroup_size) size: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(local_invocation_index) lane: u32,
    @builtin(global_invocation_id) id: vec3<u32>,
) {
    if size == 0u || subgroups == 0u { return; }
    tile[lane] = lane * 3u;
    workgroupBarrier();
    out[id.x] = tile[63u - lane];
}
