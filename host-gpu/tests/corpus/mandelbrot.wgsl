@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let c = vec2(f32(at % 64u) / 32.0 - 1.5, f32(at / 64u % 64u) / 32.0 - 1.0);
    var z = vec2(0.0);
    var n = 0u;
    while n < 300u && dot(z, z) < 4.0 { z = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + c; n++; }
    output[at] = n;
}
