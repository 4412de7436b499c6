// Sixteen invocations share a row, as in matmul_lanes.wgsl, but multiply in half precision, which GPUs that have it do twice as
// fast. A block of 32 is divided by its largest magnitude before it is rounded: then nothing overflows that single precision holds,
// up to 1e37, and what is lost is below 2^-11 of that magnitude. Eight products are added up in half precision, the rest in single.

// Blocks smaller than this count as zeros: they would be divided by next to nothing.
const LEAST = 1e-30;

// 16 blocks of 8 tokens: by token, then by vec4 of the block, then by block, so that the sixteen read side by side.
var<workgroup> tile: array<vec4<f16>, 1024>;
var<workgroup> scales: array<f32, 128>;

fn largest(v: vec4<f32>) -> f32 {
    let size = abs(v);
    return max(max(size.x, size.y), max(size.z, size.w));
}

fn inverse(scale: f32) -> f32 {
    return select(0.0, 1.0 / scale, scale >= LEAST);
}

// Sixteen blocks of eight tokens on their way into the tile. Eight invocations bring a block.
fn bring(token: u32, first: u32, lane: u32) {
    for (var i = 0u; i < 16u; i++) {
        let part = lane & 7u;
        let place = i * 8u + lane / 8u;
        let block = first + (place & 15u);
        let at = min(token + place / 16u, shape.tokens - 1u) * shape.x_stride;
        var own = vec4<f32>();
        if block < shape.inner / 32u {
            own = x[at + block * 8u + part];
        }
        var scale = largest(own);
        scale = max(scale, subgroupShuffleXor(scale, 1u));
        scale = max(scale, subgroupShuffleXor(scale, 2u));
        scale = max(scale, subgroupShuffleXor(scale, 4u));
        tile[(place / 16u * 8u + part) * 16u + (place & 15u)] = vec4<f16>(own * inverse(scale));
        if part == 0u {
            scales[place] = scale;
        }
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
    let own_block = lane & 15u;
    var sums: array<f32, 8>;
    for (var first = 0u; first < shape.inner / 32u; first += 16u) {
        workgroupBarrier();
        bring(token, first, lane);
        workgroupBarrier();
        let block = first + own_block;
        if block < shape.inner / 32u {
            let full = weights(min(row, shape.rows - 1u), block);
            var scale = 0.0;
            for (var i = 0u; i < 8u; i++) {
                scale = max(scale, largest(full[i]));
            }
            let down = inverse(scale);
            var own: array<vec4<f16>, 8>;
            for (var i = 0u; i < 8u; i++) {
                own[i] = vec4<f16>(full[i] * down);
            }
            for (var t = 0u; t < 8u; t++) {
                var sum = vec4<f16>();
                for (var i = 0u; i < 8u; i++) {
                    sum += own[i] * tile[(t * 8u + i) * 16u + own_block];
                }
                sums[t] += total(vec4<f32>(sum)) * scale * scales[t * 16u + own_block];
            }
        }
    }
    for (var t = 0u; t < 8u; t++) {
        let all = gathered(lane, size, sums[t]);
        if own_block == 0u {
            store(row, token + t, all);
        }
    }
}
