// Attention, a workgroup for each head of each token: y = softmax(q · Kᵀ · scale) · V over the keys of the token's span, in
// tiles of 64 keys with a running maximum and sum (Milakov and Gimelshein, 2018), so that any number of keys fits.

struct Shape {
    heads: u32,
    kv_heads: u32,
    /// Of a head: a multiple of 4, 256 at most, and a divisor of 256.
    size: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> values: array<vec4<f32>>;
// Per token: the first key, and the one behind the last.
@group(0) @binding(3) var<storage, read> spans: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> shape: Shape;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

const LEAST = -3.0e38;

var<workgroup> query: array<vec4<f32>, 64>;
var<workgroup> scores: array<f32, 64>;
var<workgroup> partial: array<f32, 64>;
var<workgroup> sums: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let token = group.y;
    let parts = shape.size / 4u;
    let kv = head / (shape.heads / shape.kv_heads);
    let span = spans[token];
    let own = (token * shape.heads + head) * parts;
    if lane < parts {
        query[lane] = q[own + lane] * shape.scale;
    }
    // Which part of the values a lane adds up, and of which keys.
    let part = lane % parts;
    let turn = lane / parts;
    let turns = 64u / parts;
    var most = LEAST;
    var sum = 0.0;
    var found = vec4<f32>();
    workgroupBarrier();
    for (var start = span.x; start < span.y; start += 64u) {
        let key = start + lane;
        var score = LEAST;
        if key < span.y {
            let at = (key * shape.kv_heads + kv) * parts;
            var products = vec4<f32>();
            for (var i = 0u; i < parts; i++) {
                products += query[i] * keys[at + i];
            }
            score = (products.x + products.y) + (products.z + products.w);
        }
        partial[lane] = score;
        workgroupBarrier();
        for (var half = 32u; half > 0u; half /= 2u) {
            if lane < half {
                partial[lane] = max(partial[lane], partial[lane + half]);
            }
            workgroupBarrier();
        }
        let before = most;
        most = max(most, partial[0]);
        let shrink = exp(before - most);
        let weight = select(0.0, exp(score - most), key < span.y);
        sum = sum * shrink + weight;
        scores[lane] = weight;
        workgroupBarrier();
        found *= shrink;
        let count = min(64u, span.y - start);
        for (var i = turn; i < count; i += turns) {
            found += scores[i] * values[((start + i) * shape.kv_heads + kv) * parts + part];
        }
        workgroupBarrier();
    }
    partial[lane] = sum;
    sums[lane] = found;
    workgroupBarrier();
    if lane < parts {
        var all = 0.0;
        for (var i = 0u; i < 64u; i++) {
            all += partial[i];
        }
        var together = vec4<f32>();
        for (var i = 0u; i < turns; i++) {
            together += sums[i * parts + lane];
        }
        y[own + lane] = together / max(all, 1.0e-30);
    }
}
