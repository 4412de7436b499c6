@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var grid = array<array<u32, 4>, 3>(array(1u, 2u, 3u, 4u), array(5u, 6u, 7u, 8u), array(9u, 10u, 11u, 12u));
    grid[at % 3u][at % 4u] += at;
    let row = grid[(at + 1u) % 3u];
    output[at] = row[2] + grid[at % 3u][at % 4u];
}
