// Norms of rows. A workgroup has a row.
// RMS (Zhang and Sennrich, 2019): y = x / √(mean(x²) + ε) · weight.
// Layer (Ba, Kiros and Hinton, 2016): y = (x − mean(x)) / √(var(x) + ε) · weight + bias.

struct Shape {
    width: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> shape: Shape;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<f32, 64>;

fn everybodys(lane: u32, own: f32) -> f32 {
    workgroupBarrier();
    partial[lane] = own;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    return partial[0];
}

@compute @workgroup_size(64)
fn rms(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x * shape.width;
    var squares = 0.0;
    for (var i = lane; i < shape.width; i += 64u) {
        squares += x[at + i] * x[at + i];
    }
    let factor = 1.0 / sqrt(everybodys(lane, squares) / f32(shape.width) + shape.epsilon);
    for (var i = lane; i < shape.width; i += 64u) {
        y[at + i] = x[at + i] * factor * weight[i];
    }
}

@compute @workgroup_size(64)
fn layer(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x * shape.width;
    var sum = 0.0;
    for (var i = lane; i < shape.width; i += 64u) {
        sum += x[at + i];
    }
    let mean = everybodys(lane, sum) / f32(shape.width);
    var squares = 0.0;
    for (var i = lane; i < shape.width; i += 64u) {
        squares += (x[at + i] - mean) * (x[at + i] - mean);
    }
    let factor = 1.0 / sqrt(everybodys(lane, squares) / f32(shape.width) + shape.epsilon);
    for (var i = lane; i < shape.width; i += 64u) {
        y[at + i] = (x[at + i] - mean) * factor * weight[i] + bias[i];
    }
}
