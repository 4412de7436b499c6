// f16: 32 weights are 16 words.

fn weights(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * shape.inner + block * 32u) / 2u;
    var out: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
        out[i] = vec4<f32>(unpack2x16float(w[at + i * 2u]), unpack2x16float(w[at + i * 2u + 1u]));
    }
    return out;
}
