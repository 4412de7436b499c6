// f32: 32 weights are 8 vec4.

@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;

fn weights(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let at = (row * shape.inner) / 4u + block * 8u;
    return array<vec4<f32>, 8>(w[at], w[at + 1u], w[at + 2u], w[at + 3u], w[at + 4u], w[at + 5u], w[at + 6u], w[at + 7u]);
}
