@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
fn swap(p: ptr<function, vec2<u32>>) { let x = (*p).x; (*p).x = (*p).y; (*p).y = x; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var pair = vec2<u32>(at, 3u);
    let p = &pair;
    (*p).x += 2u;
    swap(p);
    swap(&pair);
    swap(&pair);
    output[at] = pair.x * 7u + pair.y;
}
