@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let a = f32(at % 50u) * 0.1;
    let b = exp2(a) + fma(a, 2.0, 1.0) + inverseSqrt(a + 1.0) + saturate(a) + smoothstep(0.0, 5.0, a);
    output[at] = bitcast<u32>(b);
}
