// The low half of each byte.
fn nibbles(bytes: u32) -> vec4<f32> {
    return vec4<f32>(vec4<u32>(bytes, bytes >> 8u, bytes >> 16u, bytes >> 24u) & vec4<u32>(15u));
}
