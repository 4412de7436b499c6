@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var seed = at * 747796405u + 2891336453u;
    var place = vec2<i32>(0);
    for (var i = 0; i < 500; i++) {
        seed = seed * 1664525u + 1013904223u;
        switch seed >> 30u {
            case 0u: { place.x++; }
            case 1u: { place.x--; }
            case 2u: { place.y++; }
            default: { place.y--; }
        }
        if abs(place.x) + abs(place.y) > 25 { break; }
    }
    output[at] = bitcast<u32>(place.x * 100 + place.y);
}
