@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let a = f32(at) * 0.25 + 1.0;
    let b = sqrt(a) + a * a - fract(a) + floor(a * 1.5) - ceil(a) + round(a) + trunc(-a) + step(3.0, a) + mix(a, 2.0, 0.5);
    output[at] = bitcast<u32>(b);
}
