// Q4_K: 256 weights are 144 bytes: a scale and a least value in f16 for all, 12 bytes with eight scales and eight least values
// of 6 bits, and 128 bytes. Each 32 of those hold 64 weights: first the low halves, then the high ones.

// A byte of the 12 with scales.
fn scale_byte(at: u32, index: u32) -> u32 {
    return (w[at + 1u + index / 4u] >> (8u * (index % 4u))) & 255u;
}

fn weights(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * (shape.inner / 256u) + block / 8u) * 36u;
    let part = block % 8u;
    let both = unpack2x16float(w[at]);
    var scale = 0u;
    var least = 0u;
    if part < 4u {
        scale = scale_byte(at, part) & 63u;
        least = scale_byte(at, part + 4u) & 63u;
    } else {
        let low = scale_byte(at, part + 4u);
        scale = (low & 15u) | ((scale_byte(at, part - 4u) >> 6u) << 4u);
        least = (low >> 4u) | ((scale_byte(at, part) >> 6u) << 4u);
    }
    let factor = both.x * f32(scale);
    let offset = both.y * f32(least);
    var out: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
        out[i] = factor * nibbles(w[at + 4u + (part / 2u) * 8u + i] >> (4u * (part % 2u))) - offset;
    }
    return out;
}
