@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
struct GannetImmediates { base: u32 }
var<private> gannet_uniform_left: u32 = 4u;
fn gannet(at: u32) -> u32 { return GannetImmediates(at).base * 2u; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var gannet_left = 3u;
    let gannet_exhausted = gannet(at);
    for (var i = 0u; i < at % 7u; i++) { gannet_left += gannet_exhausted; }
    output[at] = gannet_left + gannet_uniform_left;
}
