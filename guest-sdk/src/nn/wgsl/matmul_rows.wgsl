// An invocation has rows of its own: for drivers whose lanes share a core. Activations are the same for all lanes, so each lane
// loads an eighth of them, and they are handed around. Written out, because a lane's number must be a constant.

// Four rows and one token.
@compute @workgroup_size(32)
fn vector(@builtin(global_invocation_id) id: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = id.x * 4u;
    let last = shape.rows - 1u;
    let at = min(id.y, shape.tokens - 1u) * shape.x_stride + (lane & 7u);
    var sum_0 = vec4<f32>();
    var sum_1 = vec4<f32>();
    var sum_2 = vec4<f32>();
    var sum_3 = vec4<f32>();
    for (var block = 0u; block < shape.inner / 32u; block++) {
        let own = x[at + block * 8u];
        let w_0 = weights(min(row + 0u, last), block);
        let w_1 = weights(min(row + 1u, last), block);
        let w_2 = weights(min(row + 2u, last), block);
        let w_3 = weights(min(row + 3u, last), block);
        let x_0 = subgroupBroadcast(own, 0u);
        sum_0 += w_0[0] * x_0;
        sum_1 += w_1[0] * x_0;
        sum_2 += w_2[0] * x_0;
        sum_3 += w_3[0] * x_0;
        let x_1 = subgroupBroadcast(own, 1u);
        sum_0 += w_0[1] * x_1;
        sum_1 += w_1[1] * x_1;
        sum_2 += w_2[1] * x_1;
        sum_3 += w_3[1] * x_1;
        let x_2 = subgroupBroadcast(own, 2u);
        sum_0 += w_0[2] * x_2;
        sum_1 += w_1[2] * x_2;
        sum_2 += w_2[2] * x_2;
        sum_3 += w_3[2] * x_2;
        let x_3 = subgroupBroadcast(own, 3u);
        sum_0 += w_0[3] * x_3;
        sum_1 += w_1[3] * x_3;
        sum_2 += w_2[3] * x_3;
        sum_3 += w_3[3] * x_3;
        let x_4 = subgroupBroadcast(own, 4u);
        sum_0 += w_0[4] * x_4;
        sum_1 += w_1[4] * x_4;
        sum_2 += w_2[4] * x_4;
        sum_3 += w_3[4] * x_4;
        let x_5 = subgroupBroadcast(own, 5u);
        sum_0 += w_0[5] * x_5;
        sum_1 += w_1[5] * x_5;
        sum_2 += w_2[5] * x_5;
        sum_3 += w_3[5] * x_5;
        let x_6 = subgroupBroadcast(own, 6u);
        sum_0 += w_0[6] * x_6;
        sum_1 += w_1[6] * x_6;
        sum_2 += w_2[6] * x_6;
        sum_3 += w_3[6] * x_6;
        let x_7 = subgroupBroadcast(own, 7u);
        sum_0 += w_0[7] * x_7;
        sum_1 += w_1[7] * x_7;
        sum_2 += w_2[7] * x_7;
        sum_3 += w_3[7] * x_7;
    }
    store(row + 0u, id.y, total(sum_0));
    store(row + 1u, id.y, total(sum_1));
    store(row + 2u, id.y, total(sum_2));
    store(row + 3u, id.y, total(sum_3));
}

// Four rows and sixteen tokens. A weight is unpacked once for all of them: such drivers load a word for each lane by itself, and
// what is loaded must be worth it.
@compute @workgroup_size(32)
fn matrix(@builtin(global_invocation_id) id: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = id.x * 4u;
    let last = shape.rows - 1u;
    let token = id.y * 16u;
    var at: array<u32, 16>;
    var sums: array<vec4<f32>, 16>;
    for (var t = 0u; t < 16u; t++) {
        at[t] = min(token + t, shape.tokens - 1u) * shape.x_stride + (lane & 7u);
    }
    for (var block = 0u; block < shape.inner / 32u; block++) {
        let w_0 = weights(min(row, last), block);
        let w_1 = weights(min(row + 1u, last), block);
        let w_2 = weights(min(row + 2u, last), block);
        let w_3 = weights(min(row + 3u, last), block);
        for (var t = 0u; t < 16u; t++) {
            let own = x[at[t] + block * 8u];
            var sum = sums[t];
            let x_0 = subgroupBroadcast(own, 0u);
            sum += vec4<f32>(dot(w_0[0], x_0), dot(w_1[0], x_0), dot(w_2[0], x_0), dot(w_3[0], x_0));
            let x_1 = subgroupBroadcast(own, 1u);
            sum += vec4<f32>(dot(w_0[1], x_1), dot(w_1[1], x_1), dot(w_2[1], x_1), dot(w_3[1], x_1));
            let x_2 = subgroupBroadcast(own, 2u);
            sum += vec4<f32>(dot(w_0[2], x_2), dot(w_1[2], x_2), dot(w_2[2], x_2), dot(w_3[2], x_2));
            let x_3 = subgroupBroadcast(own, 3u);
            sum += vec4<f32>(dot(w_0[3], x_3), dot(w_1[3], x_3), dot(w_2[3], x_3), dot(w_3[3], x_3));
            let x_4 = subgroupBroadcast(own, 4u);
            sum += vec4<f32>(dot(w_0[4], x_4), dot(w_1[4], x_4), dot(w_2[4], x_4), dot(w_3[4], x_4));
            let x_5 = subgroupBroadcast(own, 5u);
            sum += vec4<f32>(dot(w_0[5], x_5), dot(w_1[5], x_5), dot(w_2[5], x_5), dot(w_3[5], x_5));
            let x_6 = subgroupBroadcast(own, 6u);
            sum += vec4<f32>(dot(w_0[6], x_6), dot(w_1[6], x_6), dot(w_2[6], x_6), dot(w_3[6], x_6));
            let x_7 = subgroupBroadcast(own, 7u);
            sum += vec4<f32>(dot(w_0[7], x_7), dot(w_1[7], x_7), dot(w_2[7], x_7), dot(w_3[7], x_7));
            sums[t] = sum;
        }
    }
    for (var t = 0u; t < 16u; t++) {
        store(row, token + t, sums[t].x);
        store(row + 1u, token + t, sums[t].y);
        store(row + 2u, token + t, sums[t].z);
        store(row + 3u, token + t, sums[t].w);
    }
}

// Four rows and thirty-two tokens. A weight is unpacked once for all of them: such drivers load a word for each lane by itself, and
// what is loaded must be worth it.
@compute @workgroup_size(32)
fn wide(@builtin(global_invocation_id) id: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = id.x * 4u;
    let last = shape.rows - 1u;
    let token = id.y * 32u;
    var at: array<u32, 32>;
    var sums: array<vec4<f32>, 32>;
    for (var t = 0u; t < 32u; t++) {
        at[t] = min(token + t, shape.tokens - 1u) * shape.x_stride + (lane & 7u);
    }
    for (var block = 0u; block < shape.inner / 32u; block++) {
        let w_0 = weights(min(row, last), block);
        let w_1 = weights(min(row + 1u, last), block);
        let w_2 = weights(min(row + 2u, last), block);
        let w_3 = weights(min(row + 3u, last), block);
        for (var t = 0u; t < 32u; t++) {
            let own = x[at[t] + block * 8u];
            var sum = sums[t];
            let x_0 = subgroupBroadcast(own, 0u);
            sum += vec4<f32>(dot(w_0[0], x_0), dot(w_1[0], x_0), dot(w_2[0], x_0), dot(w_3[0], x_0));
            let x_1 = subgroupBroadcast(own, 1u);
            sum += vec4<f32>(dot(w_0[1], x_1), dot(w_1[1], x_1), dot(w_2[1], x_1), dot(w_3[1], x_1));
            let x_2 = subgroupBroadcast(own, 2u);
            sum += vec4<f32>(dot(w_0[2], x_2), dot(w_1[2], x_2), dot(w_2[2], x_2), dot(w_3[2], x_2));
            let x_3 = subgroupBroadcast(own, 3u);
            sum += vec4<f32>(dot(w_0[3], x_3), dot(w_1[3], x_3), dot(w_2[3], x_3), dot(w_3[3], x_3));
            let x_4 = subgroupBroadcast(own, 4u);
            sum += vec4<f32>(dot(w_0[4], x_4), dot(w_1[4], x_4), dot(w_2[4], x_4), dot(w_3[4], x_4));
            let x_5 = subgroupBroadcast(own, 5u);
            sum += vec4<f32>(dot(w_0[5], x_5), dot(w_1[5], x_5), dot(w_2[5], x_5), dot(w_3[5], x_5));
            let x_6 = subgroupBroadcast(own, 6u);
            sum += vec4<f32>(dot(w_0[6], x_6), dot(w_1[6], x_6), dot(w_2[6], x_6), dot(w_3[6], x_6));
            let x_7 = subgroupBroadcast(own, 7u);
            sum += vec4<f32>(dot(w_0[7], x_7), dot(w_1[7], x_7), dot(w_2[7], x_7), dot(w_3[7], x_7));
            sums[t] = sum;
        }
    }
    for (var t = 0u; t < 32u; t++) {
        store(row, token + t, sums[t].x);
        store(row + 1u, token + t, sums[t].y);
        store(row + 2u, token + t, sums[t].z);
        store(row + 3u, token + t, sums[t].w);
    }
}
