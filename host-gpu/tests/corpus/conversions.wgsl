@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let x = f32(i32(at) - 30) * 1.75;
    let y = i32(x) + i32(u32(abs(x))) + i32(x > 3.0);
    output[at] = bitcast<u32>(y) + u32(bool(at % 3u)) + pack4x8unorm(vec4(0.1, 0.5, 0.9, f32(at % 2u))) + pack2x16float(vec2(x, 1.0));
}
