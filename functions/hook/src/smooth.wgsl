// The mean of each value and its neighbours, at most `params.y` on either side. `params.x` is the number of values.
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> means: array<f32>;
@group(0) @binding(2) var<uniform> params: vec4<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.x;
    if (at >= params.x) {
        return;
    }
    let first = at - min(at, params.y);
    let last = min(at + params.y, params.x - 1u);
    var sum = 0.0;
    for (var i = first; i <= last; i = i + 1u) {
        sum = sum + values[i];
    }
    means[at] = sum / f32(last - first + 1u);
}
