@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var state = 0u;
    var trace = 0u;
    for (var i = 0u; i < 24u; i++) {
        switch state {
            case 0u: { state = 1u; if (at + i) % 5u == 0u { continue; } }
            case 1u: { state = 2u; if at % 3u == 0u { break; } trace += 1u; }
            default: { state = 0u; trace = trace * 3u; }
        }
        trace += state;
    }
    output[at] = trace;
}
