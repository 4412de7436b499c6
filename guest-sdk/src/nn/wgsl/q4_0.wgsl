// Q4_0: 32 weights are a scale in f16 and 16 bytes, 18 bytes in all. The low halves of the bytes are the first 16 weights.

fn weights(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * (shape.inner / 32u) + block) * 18u;
    let scale = half_at(at);
    var out: array<vec4<f32>, 8>;
    for (var i = 0u; i < 4u; i++) {
        let quants = word(at + 2u + i * 4u);
        out[i] = scale * (nibbles(quants) - 8.0);
        out[i + 4u] = scale * (nibbles(quants >> 4u) - 8.0);
    }
    return out;
}
