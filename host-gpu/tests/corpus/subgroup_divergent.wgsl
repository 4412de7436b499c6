// A source may ask for subgroup operations that only some invocations of a subgroup reach.
enable subgroups;
diagnostic(off, subgroup_uniformity);

@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let value = data[id.x] % 8u;
    var sum = 0u;
    if value < 5u { sum = subgroupAdd(value); }
    for (var i = 0u; i < value; i++) { sum += subgroupMax(i + value); }
    out[id.x] = sum;
}
