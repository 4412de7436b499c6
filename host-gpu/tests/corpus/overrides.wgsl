@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
override SIZE: u32 = 32u;
override SCALE: f32 = 1.5;
override TWICE: u32 = SIZE * 2u;
override LOUD: bool = true;
var<workgroup> values: array<u32, TWICE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) n: vec3<u32>) {
    values[lane] = lane;
    values[lane + SIZE] = lane * 2u;
    workgroupBarrier();
    var sum = 0u;
    for (var i = 0u; i < TWICE; i += 4u) { sum += values[i]; }
    if LOUD { sum = u32(f32(sum) * SCALE); }
    output[(group.x + group.y * n.x + group.z * n.x * n.y) * SIZE + lane] = sum + lane;
}
