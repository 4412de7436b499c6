@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var sum = 0u;
    for (var dy = -2; dy <= 2; dy++) {
        for (var dx = -2; dx <= 2; dx++) {
            let place = clamp(vec2<i32>(i32(at % 60u) + dx, i32(at / 60u) + dy), vec2(0), vec2(59));
            sum += input[u32(place.y * 60 + place.x) % 4096u] % 256u * u32(3 - abs(dx)) * u32(3 - abs(dy));
        }
    }
    output[at] = sum;
}
