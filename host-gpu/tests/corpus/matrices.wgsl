@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let a = f32(at % 16u);
    var m = mat3x3<f32>(1.0, a, 2.0, 0.0, 1.0, a, 3.0, 1.0, 1.0);
    m[1][2] = 4.0;
    let v = m * vec3(1.0, 2.0, a) + transpose(m)[at % 3u];
    let n = mat2x3<f32>(v, v.zyx) * vec2(1.0, 2.0);
    output[at] = u32(abs(v.x + n.y) + determinant(m));
}
