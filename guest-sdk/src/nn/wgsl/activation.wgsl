// What happens to each number by itself.

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;

// y = y / (1 + e^−y) · x, the middle of a SwiGLU (Shazeer, 2020).
@compute @workgroup_size(64)
fn swiglu(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) && id.x < arrayLength(&x) {
        y[id.x] = y[id.x] / (1.0 + exp(-y[id.x])) * x[id.x];
    }
}

// erf to 1.5e-7: Abramowitz and Stegun, 7.1.26.
fn erf(v: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(v));
    let poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return sign(v) * (1.0 - poly * exp(-v * v));
}

// GELU, the exact one (Hendrycks and Gimpel, 2016).
@compute @workgroup_size(64)
fn gelu(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) {
        y[id.x] = 0.5 * y[id.x] * (1.0 + erf(y[id.x] * 0.70710678));
    }
}

@compute @workgroup_size(64)
fn add(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) && id.x < arrayLength(&x) {
        y[id.x] += x[id.x];
    }
}
