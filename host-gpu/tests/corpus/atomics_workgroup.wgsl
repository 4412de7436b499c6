@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
var<workgroup> bins: array<atomic<u32>, 8>;
var<workgroup> largest: atomic<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) groups: vec3<u32>) {
    let group_index = group.x + group.y * groups.x + group.z * groups.x * groups.y;
    atomicAdd(&bins[input[(group_index * 64u + lane) % 4096u] % 8u], 1u);
    atomicMax(&largest, lane * 7u % 61u);
    workgroupBarrier();
    if lane < 8u { output[group_index * 9u + lane] = atomicLoad(&bins[lane]); }
    if lane == 8u { output[group_index * 9u + 8u] = atomicLoad(&largest); }
}
