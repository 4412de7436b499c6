// Q4_1: 32 weights are a scale and a least value in f16, and 16 bytes, 20 bytes in all. The low halves of the bytes are the
// first 16 weights.

fn weights(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * (shape.inner / 32u) + block) * 5u;
    let scale = unpack2x16float(w[at]);
    var out: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) {
        let quants = w[at + 1u + i];
        out[i] = scale.x * nibbles(quants) + scale.y;
        out[i + 4u] = scale.x * nibbles(quants >> 4u) + scale.y;
    }
    return out;
}
