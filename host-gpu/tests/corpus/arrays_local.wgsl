@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var values: array<u32, 16>;
    for (var i = 0u; i < 16u; i++) { values[i] = input[(at + i * 7u) % 256u] % 100u; }
    for (var i = 1u; i < 16u; i++) {
        let key = values[i];
        var j = i;
        while j > 0u && values[j - 1u] > key { values[j] = values[j - 1u]; j--; }
        values[j] = key;
    }
    output[at] = values[at % 16u] + values[3] * 1000u;
}
