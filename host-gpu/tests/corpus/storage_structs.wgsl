@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
struct Item { a: u32, b: vec2<f32>, c: array<u32, 3> }
struct Total { total: u32 }
@group(0) @binding(2) var<storage, read> items: array<Item>;
@group(1) @binding(0) var<storage, read_write> items2: array<Total, 8>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let p = items[at % 8u];
    items2[at % 8u].total = 0u;
    output[at] = p.a + u32(p.b.y) + p.c[at % 3u] + arrayLength(&items);
}
