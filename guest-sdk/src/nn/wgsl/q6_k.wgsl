// Q6_K: 256 weights are 210 bytes: 128 bytes with the low four bits, 64 bytes with the high two, sixteen signed scales of a byte
// and a scale in f16 for all. Each half of 128 weights has 64, 32 and 8 of them: 32 weights take the low or the high halves of
// 32 bytes, and one of the four pairs of bits of 32 others.

fn weights(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * (shape.inner / 256u) + block / 8u) * 210u;
    let part = block % 8u;
    let side = part / 4u;
    let quarter = part % 4u;
    let scale = half_at(at + 208u);
    // The scales of 16 weights each, two for this block.
    let scales = word(at + 192u + side * 8u + (quarter / 2u) * 4u) >> (16u * (quarter % 2u));
    let factors = scale * vec2<f32>(vec2<i32>(vec2<u32>(scales << 24u, scales << 16u)) >> vec2<u32>(24u));
    var out: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
        let low = nibbles(word(at + side * 64u + (quarter % 2u) * 32u + i * 4u) >> (4u * (quarter / 2u)));
        let high = word(at + 128u + side * 32u + i * 4u) >> (2u * quarter);
        let bits = vec4<f32>(vec4<u32>(high, high >> 8u, high >> 16u, high >> 24u) & vec4<u32>(3u));
        out[i] = select(factors.y, factors.x, i < 4u) * (low + 16.0 * bits - 32.0);
    }
    return out;
}
