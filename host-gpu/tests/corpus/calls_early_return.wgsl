@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
fn find(x: u32) -> u32 {
    for (var i = 0u; i < 50u; i++) {
        if input[i] % 17u == x % 17u { return i; }
    }
    return 99u;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    output[at] = find(at) + find(at * 3u);
}
