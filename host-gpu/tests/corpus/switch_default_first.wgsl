@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var x = 0u;
    switch i32(at % 7u) - 3 {
        case default, 2: { x = 5u; }
        case -3: { x = 1u; }
        case -1: { x = 2u; if at > 40u { break; } x = 3u; }
    }
    output[at] = x;
}
