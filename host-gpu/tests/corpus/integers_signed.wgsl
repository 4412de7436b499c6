@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let a = i32(at) - 40;
    let b = a / 7 + a % 7 - (a >> 1u) + abs(a) + sign(a) * 3;
    output[at] = bitcast<u32>(b * -5 + max(a, 3) - min(a, -2) + clamp(a, -5, 5));
}
