@group(0) @binding(0) var<storage, read_write> sums: array<atomic<u32>, 64>;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let slot = id.x % 8u;
    var old = atomicLoad(&sums[slot]);
    loop {
        let result = atomicCompareExchangeWeak(&sums[slot], old, old + id.x % 5u);
        if result.exchanged { break; }
        old = result.old_value;
    }
}
