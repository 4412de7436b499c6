@group(0) @binding(0) var<storage, read_write> bins: array<atomic<u32>, 64>;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(2) var<storage, read_write> extremes: array<atomic<i32>, 8>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.x + id.y * groups.x * 64u;
    let value = input[at % 4096u];
    atomicAdd(&bins[value % 16u], 3u);
    atomicSub(&bins[16u + value % 16u], 1u);
    atomicOr(&bins[32u], 1u << (value % 32u));
    atomicAnd(&bins[33u], ~(1u << (at % 5u)));
    atomicXor(&bins[34u], value);
    atomicMin(&extremes[0], i32(value % 1000u) - 500);
    atomicMax(&extremes[1], i32(value % 1000u) - 500);
    if at == 3u { atomicStore(&extremes[2], 7); let old = atomicExchange(&extremes[3], 9); let done = atomicCompareExchangeWeak(&extremes[4], 0, 5); }
}
