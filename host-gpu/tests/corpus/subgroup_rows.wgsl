// Each subgroup takes rows of a matrix in turn. Not all take as many.
enable subgroups;

@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
) {
    let rows = data[0] % 13u + 3u;
    for (var row = subgroup; row < 13u; row += subgroups) {
        var sum = 0u;
        for (var column = lane; column < 70u; column += size) { sum += data[row * 70u + column]; }
        let whole = subgroupAdd(sum);
        if lane == 0u { out[group.x * 16u + row] = whole + rows; }
    }
}
