@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var n = 0u;
    var sum = 0u;
    loop {
        sum += n * n;
        continuing {
            n += 1u;
            break if n >= at % 23u + 1u;
        }
    }
    output[at] = sum;
}
