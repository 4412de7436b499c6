@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var n = 0u;
    var sum = 0u;
    loop {
        if n > 6u { break; }
        if n == 3u { n += 2u; continue; }
        sum += n;
        continuing {
            for (var k = 0u; k < n; k++) { sum = sum * 3u + k; }
            n += 1u;
        }
    }
    output[at] = sum;
}
