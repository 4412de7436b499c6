@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
fn d(x: u32) -> u32 { var s = 0u; for (var i = 0u; i < x % 13u; i++) { s += i; } return s; }
fn c(x: u32) -> u32 { return d(x) + d(x + 1u); }
fn b(x: u32) -> u32 { return c(x) * 2u + c(x + 3u); }
fn a(x: u32) -> u32 { return b(x) + b(x * 2u); }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    output[at] = a(at);
}
