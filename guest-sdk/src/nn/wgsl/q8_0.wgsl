// Q8_0: 32 weights are a scale in f16 and 32 signed bytes, 34 bytes in all.

fn weights(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * (shape.inner / 32u) + block) * 34u;
    let scale = half_at(at);
    let first = (at + 2u) / 4u;
    let shift = ((at + 2u) & 2u) * 8u;
    var out: array<vec4<f32>, 8>;
    var low = w[first];
    for (var i = 0u; i < 8u; i++) {
        let high = w[first + i + 1u];
        let quants = bitcast<i32>((low >> shift) | ((high << 1u) << (31u - shift)));
        out[i] = scale * vec4<f32>(vec4<i32>(quants << 24u, quants << 16u, quants << 8u, quants) >> vec4<u32>(24u));
        low = high;
    }
    return out;
}
