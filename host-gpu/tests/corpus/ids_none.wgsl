@group(0) @binding(0) var<storage, read_write> output: array<atomic<u32>, 4>;

@compute @workgroup_size(32)
fn main() {
    atomicAdd(&output[0], 2u);
}
