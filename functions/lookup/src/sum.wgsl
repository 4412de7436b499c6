// Adds up whole numbers, so that the sum does not depend on their order. One workgroup takes them all.

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read_write> sum: atomic<u32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var own = 0u;
    for (var index = lane; index < arrayLength(&table); index += 64u) {
        own += table[index];
    }
    atomicAdd(&sum, own);
}
