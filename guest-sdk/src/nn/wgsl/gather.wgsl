// Rows of a matrix by their numbers: y[t] = W[ids[t]], or added to what y holds.

struct Shape {
    rows: u32,
    /// Weights of a row, a multiple of 32.
    inner: u32,
    tokens: u32,
    add: u32,
}

@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> shape: Shape;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn gather(@builtin(global_invocation_id) id: vec3<u32>) {
    let blocks = shape.inner / 32u;
    let token = id.x / blocks;
    let block = id.x % blocks;
    if token >= shape.tokens {
        return;
    }
    let row = min(ids[token], shape.rows - 1u);
    let own = weights(row, block);
    for (var i = 0u; i < 8u; i++) {
        let at = id.x * 8u + i;
        if shape.add != 0u {
            y[at] += own[i];
        } else {
            y[at] = own[i];
        }
    }
}
