@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let v = vec4<u32>(at, at + 1u, at * 2u, 3u);
    let w = v.wzyx + v.xxyy * 2u;
    var u = vec3<u32>(w.x, w.yz);
    u.y = 9u;
    u[at % 3u] += 4u;
    output[at] = dot(u, vec3(1u, 3u, 5u)) + w[at % 4u];
}
