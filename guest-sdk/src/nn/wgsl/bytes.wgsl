// Blocks whose size is no multiple of 4 begin in the middle of a word.

// The word at a byte offset that is a multiple of 2.
fn word(at: u32) -> u32 {
    let shift = (at & 2u) * 8u;
    // With no shift, the second part is shifted out in two steps: one of 32 bits would be none.
    return (w[at / 4u] >> shift) | ((w[at / 4u + 1u] << 1u) << (31u - shift));
}

fn half_at(at: u32) -> f32 {
    return unpack2x16float(w[at / 4u] >> ((at & 2u) * 8u)).x;
}
