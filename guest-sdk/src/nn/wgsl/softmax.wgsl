// Softmax of each row, in place. A workgroup has a row.

struct Shape {
    width: u32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> shape: Shape;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn softmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x * shape.width;
    var most = -3.4e38;
    for (var i = lane; i < shape.width; i += 64u) {
        most = max(most, y[at + i]);
    }
    partial[lane] = most;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] = max(partial[lane], partial[lane + half]);
        }
        workgroupBarrier();
    }
    most = partial[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var i = lane; i < shape.width; i += 64u) {
        let own = exp(y[at + i] - most);
        y[at + i] = own;
        sum += own;
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    sum = partial[0];
    for (var i = lane; i < shape.width; i += 64u) {
        y[at + i] /= sum;
    }
}
