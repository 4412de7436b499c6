@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
struct Particle { position: vec3<f32>, age: u32, tags: array<u32, 2> }
fn moved(p: Particle, by: u32) -> Particle { var q = p; q.position += vec3(f32(by)); q.age += by; q.tags[by % 2u] += q.age; return q; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    var p = Particle(vec3(f32(at), 1.0, 2.0), 3u, array(1u, 2u));
    for (var i = 0u; i < 10u; i++) { p = moved(p, i); }
    output[at] = u32(p.position.x) + p.age + p.tags[1];
}
