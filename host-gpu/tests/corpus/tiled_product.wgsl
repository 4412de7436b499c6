@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
var<workgroup> a: array<array<u32, 8>, 8>;
var<workgroup> b: array<array<u32, 8>, 8>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) groups: vec3<u32>) {
    let group_index = group.x + group.y * groups.x + group.z * groups.x * groups.y;
    let row = lane / 8u;
    let column = lane % 8u;
    var sum = 0u;
    for (var tile = 0u; tile < 6u; tile++) {
        a[row][column] = input[(group_index * 8u + row * 48u + tile * 8u + column) % 4096u] % 64u;
        b[row][column] = input[((tile * 8u + row) * 16u + column) % 4096u] % 64u;
        workgroupBarrier();
        for (var k = 0u; k < 8u; k++) { sum += a[row][k] * b[k][column]; }
        workgroupBarrier();
    }
    output[group_index * 64u + lane] = sum;
}
