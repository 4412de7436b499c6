// Sixteen invocations share a row and read it side by side: for GPUs, where neighbours should read neighbouring words.

// Four rows and one token.
@compute @workgroup_size(64)
fn vector(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_size) size: u32,
) {
    let row = group.x * 4u + lane / 16u;
    let at = group.y * shape.x_stride;
    var sum = vec4<f32>();
    for (var block = lane & 15u; block < shape.inner / 32u; block += 16u) {
        let own = weights(min(row, shape.rows - 1u), block);
        for (var i = 0u; i < 8u; i++) {
            sum += own[i] * x[at + block * 8u + i];
        }
    }
    let all = gathered(lane, size, total(sum));
    if (lane & 15u) == 0u {
        store(row, group.y, all);
    }
}

// Four rows and eight tokens.
@compute @workgroup_size(64)
fn matrix(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_size) size: u32,
) {
    let row = group.x * 4u + lane / 16u;
    let token = group.y * 8u;
    var sums: array<f32, 8>;
    for (var block = lane & 15u; block < shape.inner / 32u; block += 16u) {
        let own = weights(min(row, shape.rows - 1u), block);
        for (var t = 0u; t < 8u; t++) {
            let at = min(token + t, shape.tokens - 1u) * shape.x_stride + block * 8u;
            var sum = vec4<f32>();
            for (var i = 0u; i < 8u; i++) {
                sum += own[i] * x[at + i];
            }
            sums[t] += total(sum);
        }
    }
    for (var t = 0u; t < 8u; t++) {
        let all = gathered(lane, size, sums[t]);
        if (lane & 15u) == 0u {
            store(row, token + t, all);
        }
    }
}
