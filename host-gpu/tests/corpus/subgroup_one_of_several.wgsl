// Only one subgroup sums the partial sums of all: the usual second step of a reduction.
enable subgroups;

@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> partial: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let sum = subgroupAdd(data[id.x]);
    if lane == 0u { partial[subgroup] = sum; }
    workgroupBarrier();
    if subgroup == 0u {
        var value = 0u;
        if lane < subgroups { value = partial[lane]; }
        let whole = subgroupAdd(value);
        if lane == 0u { out[group.x] = whole; }
    }
}
