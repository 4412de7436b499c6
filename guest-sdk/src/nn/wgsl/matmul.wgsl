// Products of a matrix of weights with activations: y[t][r] = Σ w[r][k] · x[t][k], for any format whose `weights` gives 32
// weights of a row at a time. Behind the sum, in this order: a bias, GELU, and what y held before.

struct Shape {
    rows: u32,
    /// Weights of a row, a multiple of 32.
    inner: u32,
    tokens: u32,
    /// From one token to the next, in vec4.
    x_stride: u32,
    /// From one token to the next, in f32.
    y_stride: u32,
    flags: u32,
}

const BIAS = 1u;
const GELU = 2u;
const ADD = 4u;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> shape: Shape;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// erf to 1.5e-7: Abramowitz and Stegun, 7.1.26.
fn erf(v: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(v));
    let poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return sign(v) * (1.0 - poly * exp(-v * v));
}

fn store(row: u32, token: u32, sum: f32) {
    if row >= shape.rows || token >= shape.tokens {
        return;
    }
    let at = token * shape.y_stride + row;
    var value = sum;
    if (shape.flags & BIAS) != 0u {
        value += bias[row];
    }
    if (shape.flags & GELU) != 0u {
        value = 0.5 * value * (1.0 + erf(value * 0.70710678));
    }
    if (shape.flags & ADD) != 0u {
        value += y[at];
    }
    y[at] = value;
}

fn total(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}
