@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<storage, read> input: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u + id.z * groups.x * groups.y * 64u;
    if at >= arrayLength(&output) { return; }
    let a = input[at % 200u] * 2654435761u + at;
    output[at] = countOneBits(a) + reverseBits(a) + firstLeadingBit(a) + firstTrailingBit(a) + countLeadingZeros(a) + countTrailingZeros(a) + extractBits(a, 3u, 9u) + insertBits(a, 5u, 2u, 4u);
}
