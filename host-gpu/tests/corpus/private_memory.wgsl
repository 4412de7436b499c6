@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
var<private> counter: u32 = 5u;
var<private> table: array<u32, 4> = array(1u, 4u, 9u, 16u);
fn step_counter() { counter = counter * 3u + 1u; table[counter % 4u] += counter; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    counter = at;
    for (var i = 0u; i < 6u; i++) { step_counter(); }
    output[at] = counter + table[at % 4u];
}
