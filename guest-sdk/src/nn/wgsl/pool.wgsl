// The mean of the rows of each span, and its length made 1 if asked. A workgroup has a span.

struct Shape {
    width: u32,
    normalize: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
// The first row, and the one behind the last.
@group(0) @binding(1) var<storage, read> spans: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> shape: Shape;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn mean(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let span = spans[group.x];
    let count = f32(max(span.y - span.x, 1u));
    var squares = 0.0;
    for (var i = lane; i < shape.width; i += 64u) {
        var sum = 0.0;
        for (var row = span.x; row < span.y; row++) {
            sum += x[row * shape.width + i];
        }
        let own = sum / count;
        y[group.x * shape.width + i] = own;
        squares += own * own;
    }
    partial[lane] = squares;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let length = select(1.0, max(sqrt(partial[0]), 1.0e-12), shape.normalize != 0u);
    for (var i = lane; i < shape.width; i += 64u) {
        y[group.x * shape.width + i] /= length;
    }
}
