// Attention where each lane has keys of its own, for drivers whose lanes share a core: eight lanes read eight keys and eight values for
// eight queries at once. Such drivers load a word for each lane by itself, and what is loaded must be worth it. The queries are
// the tokens of a head, and of the heads that share its keys. A running maximum and sum (Milakov and Gimelshein, 2018) let any
// number of keys fit. Written out, because a lane's number must be a constant.

struct Shape {
    heads: u32,
    kv_heads: u32,
    /// Of a head: a multiple of 4, 64 at most.
    size: u32,
    scale: f32,
    tokens: u32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> values: array<vec4<f32>>;
// Per token: the first key, and the one behind the last.
@group(0) @binding(3) var<storage, read> spans: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> shape: Shape;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

const LEAST = -3.0e38;

@compute @workgroup_size(8)
fn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv = group.x;
    let shared_by = shape.heads / shape.kv_heads;
    let parts = shape.size / 4u;
    let queries = shape.tokens * shared_by;
    let first = group.y * 8u;
    // Where a lane's own query lies, and the keys that any of the eight sees.
    var own = 0u;
    var seen = spans[min(first, queries - 1u) / shared_by];
    for (var t = 0u; t < 8u; t++) {
        let query = min(first + t, queries - 1u);
        let span = spans[query / shared_by];
        // An empty span sees nothing.
        if span.x < span.y {
            let none = seen.x >= seen.y;
            seen.x = select(min(seen.x, span.x), span.x, none);
            seen.y = select(max(seen.y, span.y), span.y, none);
        }
        if t == lane {
            own = ((query / shared_by) * shape.heads + kv * shared_by + query % shared_by) * parts;
        }
    }
    let span_0 = spans[min(first + 0u, queries - 1u) / shared_by];
    let span_1 = spans[min(first + 1u, queries - 1u) / shared_by];
    let span_2 = spans[min(first + 2u, queries - 1u) / shared_by];
    let span_3 = spans[min(first + 3u, queries - 1u) / shared_by];
    let span_4 = spans[min(first + 4u, queries - 1u) / shared_by];
    let span_5 = spans[min(first + 5u, queries - 1u) / shared_by];
    let span_6 = spans[min(first + 6u, queries - 1u) / shared_by];
    let span_7 = spans[min(first + 7u, queries - 1u) / shared_by];
    // Which parts of the values a lane adds up.
    let part = lane * 2u;
    let one = min(part, parts - 1u);
    let two = min(part + 1u, parts - 1u);
    var most_a = vec4<f32>(LEAST);
    var most_b = vec4<f32>(LEAST);
    var sum_a = vec4<f32>();
    var sum_b = vec4<f32>();
    var found_0 = vec4<f32>();
    var more_0 = vec4<f32>();
    var found_1 = vec4<f32>();
    var more_1 = vec4<f32>();
    var found_2 = vec4<f32>();
    var more_2 = vec4<f32>();
    var found_3 = vec4<f32>();
    var more_3 = vec4<f32>();
    var found_4 = vec4<f32>();
    var more_4 = vec4<f32>();
    var found_5 = vec4<f32>();
    var more_5 = vec4<f32>();
    var found_6 = vec4<f32>();
    var more_6 = vec4<f32>();
    var found_7 = vec4<f32>();
    var more_7 = vec4<f32>();
    for (var start = seen.x; start < seen.y; start += 8u) {
        let key = start + lane;
        let at = (min(key, seen.y - 1u) * shape.kv_heads + kv) * parts;
        var score_a = vec4<f32>();
        var score_b = vec4<f32>();
        for (var i = 0u; i < parts; i++) {
            let k = keys[at + i];
            let mine = q[own + i];
            score_a += vec4<f32>(dot(k, subgroupBroadcast(mine, 0u)), dot(k, subgroupBroadcast(mine, 1u)), dot(k, subgroupBroadcast(mine, 2u)), dot(k, subgroupBroadcast(mine, 3u)));
            score_b += vec4<f32>(dot(k, subgroupBroadcast(mine, 4u)), dot(k, subgroupBroadcast(mine, 5u)), dot(k, subgroupBroadcast(mine, 6u)), dot(k, subgroupBroadcast(mine, 7u)));
        }
        let sees_a = vec4<bool>((key >= span_0.x) && (key < span_0.y), (key >= span_1.x) && (key < span_1.y), (key >= span_2.x) && (key < span_2.y), (key >= span_3.x) && (key < span_3.y));
        let sees_b = vec4<bool>((key >= span_4.x) && (key < span_4.y), (key >= span_5.x) && (key < span_5.y), (key >= span_6.x) && (key < span_6.y), (key >= span_7.x) && (key < span_7.y));
        score_a = select(vec4<f32>(LEAST), score_a * shape.scale, sees_a);
        score_b = select(vec4<f32>(LEAST), score_b * shape.scale, sees_b);
        let now_a = max(most_a, subgroupMax(score_a));
        let now_b = max(most_b, subgroupMax(score_b));
        let shrink_a = exp(most_a - now_a);
        let shrink_b = exp(most_b - now_b);
        most_a = now_a;
        most_b = now_b;
        let weight_a = select(vec4<f32>(), exp(score_a - now_a), sees_a);
        let weight_b = select(vec4<f32>(), exp(score_b - now_b), sees_b);
        sum_a = sum_a * shrink_a + weight_a;
        sum_b = sum_b * shrink_b + weight_b;
        found_0 *= shrink_a.x;
        more_0 *= shrink_a.x;
        found_1 *= shrink_a.y;
        more_1 *= shrink_a.y;
        found_2 *= shrink_a.z;
        more_2 *= shrink_a.z;
        found_3 *= shrink_a.w;
        more_3 *= shrink_a.w;
        found_4 *= shrink_b.x;
        more_4 *= shrink_b.x;
        found_5 *= shrink_b.y;
        more_5 *= shrink_b.y;
        found_6 *= shrink_b.z;
        more_6 *= shrink_b.z;
        found_7 *= shrink_b.w;
        more_7 *= shrink_b.w;
        let from_0 = (min(start + 0u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_0 = values[from_0 + one];
        let u_0 = values[from_0 + two];
        let a_0 = subgroupBroadcast(weight_a, 0u);
        let b_0 = subgroupBroadcast(weight_b, 0u);
        found_0 += v_0 * a_0.x;
        more_0 += u_0 * a_0.x;
        found_1 += v_0 * a_0.y;
        more_1 += u_0 * a_0.y;
        found_2 += v_0 * a_0.z;
        more_2 += u_0 * a_0.z;
        found_3 += v_0 * a_0.w;
        more_3 += u_0 * a_0.w;
        found_4 += v_0 * b_0.x;
        more_4 += u_0 * b_0.x;
        found_5 += v_0 * b_0.y;
        more_5 += u_0 * b_0.y;
        found_6 += v_0 * b_0.z;
        more_6 += u_0 * b_0.z;
        found_7 += v_0 * b_0.w;
        more_7 += u_0 * b_0.w;
        let from_1 = (min(start + 1u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_1 = values[from_1 + one];
        let u_1 = values[from_1 + two];
        let a_1 = subgroupBroadcast(weight_a, 1u);
        let b_1 = subgroupBroadcast(weight_b, 1u);
        found_0 += v_1 * a_1.x;
        more_0 += u_1 * a_1.x;
        found_1 += v_1 * a_1.y;
        more_1 += u_1 * a_1.y;
        found_2 += v_1 * a_1.z;
        more_2 += u_1 * a_1.z;
        found_3 += v_1 * a_1.w;
        more_3 += u_1 * a_1.w;
        found_4 += v_1 * b_1.x;
        more_4 += u_1 * b_1.x;
        found_5 += v_1 * b_1.y;
        more_5 += u_1 * b_1.y;
        found_6 += v_1 * b_1.z;
        more_6 += u_1 * b_1.z;
        found_7 += v_1 * b_1.w;
        more_7 += u_1 * b_1.w;
        let from_2 = (min(start + 2u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_2 = values[from_2 + one];
        let u_2 = values[from_2 + two];
        let a_2 = subgroupBroadcast(weight_a, 2u);
        let b_2 = subgroupBroadcast(weight_b, 2u);
        found_0 += v_2 * a_2.x;
        more_0 += u_2 * a_2.x;
        found_1 += v_2 * a_2.y;
        more_1 += u_2 * a_2.y;
        found_2 += v_2 * a_2.z;
        more_2 += u_2 * a_2.z;
        found_3 += v_2 * a_2.w;
        more_3 += u_2 * a_2.w;
        found_4 += v_2 * b_2.x;
        more_4 += u_2 * b_2.x;
        found_5 += v_2 * b_2.y;
        more_5 += u_2 * b_2.y;
        found_6 += v_2 * b_2.z;
        more_6 += u_2 * b_2.z;
        found_7 += v_2 * b_2.w;
        more_7 += u_2 * b_2.w;
        let from_3 = (min(start + 3u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_3 = values[from_3 + one];
        let u_3 = values[from_3 + two];
        let a_3 = subgroupBroadcast(weight_a, 3u);
        let b_3 = subgroupBroadcast(weight_b, 3u);
        found_0 += v_3 * a_3.x;
        more_0 += u_3 * a_3.x;
        found_1 += v_3 * a_3.y;
        more_1 += u_3 * a_3.y;
        found_2 += v_3 * a_3.z;
        more_2 += u_3 * a_3.z;
        found_3 += v_3 * a_3.w;
        more_3 += u_3 * a_3.w;
        found_4 += v_3 * b_3.x;
        more_4 += u_3 * b_3.x;
        found_5 += v_3 * b_3.y;
        more_5 += u_3 * b_3.y;
        found_6 += v_3 * b_3.z;
        more_6 += u_3 * b_3.z;
        found_7 += v_3 * b_3.w;
        more_7 += u_3 * b_3.w;
        let from_4 = (min(start + 4u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_4 = values[from_4 + one];
        let u_4 = values[from_4 + two];
        let a_4 = subgroupBroadcast(weight_a, 4u);
        let b_4 = subgroupBroadcast(weight_b, 4u);
        found_0 += v_4 * a_4.x;
        more_0 += u_4 * a_4.x;
        found_1 += v_4 * a_4.y;
        more_1 += u_4 * a_4.y;
        found_2 += v_4 * a_4.z;
        more_2 += u_4 * a_4.z;
        found_3 += v_4 * a_4.w;
        more_3 += u_4 * a_4.w;
        found_4 += v_4 * b_4.x;
        more_4 += u_4 * b_4.x;
        found_5 += v_4 * b_4.y;
        more_5 += u_4 * b_4.y;
        found_6 += v_4 * b_4.z;
        more_6 += u_4 * b_4.z;
        found_7 += v_4 * b_4.w;
        more_7 += u_4 * b_4.w;
        let from_5 = (min(start + 5u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_5 = values[from_5 + one];
        let u_5 = values[from_5 + two];
        let a_5 = subgroupBroadcast(weight_a, 5u);
        let b_5 = subgroupBroadcast(weight_b, 5u);
        found_0 += v_5 * a_5.x;
        more_0 += u_5 * a_5.x;
        found_1 += v_5 * a_5.y;
        more_1 += u_5 * a_5.y;
        found_2 += v_5 * a_5.z;
        more_2 += u_5 * a_5.z;
        found_3 += v_5 * a_5.w;
        more_3 += u_5 * a_5.w;
        found_4 += v_5 * b_5.x;
        more_4 += u_5 * b_5.x;
        found_5 += v_5 * b_5.y;
        more_5 += u_5 * b_5.y;
        found_6 += v_5 * b_5.z;
        more_6 += u_5 * b_5.z;
        found_7 += v_5 * b_5.w;
        more_7 += u_5 * b_5.w;
        let from_6 = (min(start + 6u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_6 = values[from_6 + one];
        let u_6 = values[from_6 + two];
        let a_6 = subgroupBroadcast(weight_a, 6u);
        let b_6 = subgroupBroadcast(weight_b, 6u);
        found_0 += v_6 * a_6.x;
        more_0 += u_6 * a_6.x;
        found_1 += v_6 * a_6.y;
        more_1 += u_6 * a_6.y;
        found_2 += v_6 * a_6.z;
        more_2 += u_6 * a_6.z;
        found_3 += v_6 * a_6.w;
        more_3 += u_6 * a_6.w;
        found_4 += v_6 * b_6.x;
        more_4 += u_6 * b_6.x;
        found_5 += v_6 * b_6.y;
        more_5 += u_6 * b_6.y;
        found_6 += v_6 * b_6.z;
        more_6 += u_6 * b_6.z;
        found_7 += v_6 * b_6.w;
        more_7 += u_6 * b_6.w;
        let from_7 = (min(start + 7u, seen.y - 1u) * shape.kv_heads + kv) * parts;
        let v_7 = values[from_7 + one];
        let u_7 = values[from_7 + two];
        let a_7 = subgroupBroadcast(weight_a, 7u);
        let b_7 = subgroupBroadcast(weight_b, 7u);
        found_0 += v_7 * a_7.x;
        more_0 += u_7 * a_7.x;
        found_1 += v_7 * a_7.y;
        more_1 += u_7 * a_7.y;
        found_2 += v_7 * a_7.z;
        more_2 += u_7 * a_7.z;
        found_3 += v_7 * a_7.w;
        more_3 += u_7 * a_7.w;
        found_4 += v_7 * b_7.x;
        more_4 += u_7 * b_7.x;
        found_5 += v_7 * b_7.y;
        more_5 += u_7 * b_7.y;
        found_6 += v_7 * b_7.z;
        more_6 += u_7 * b_7.z;
        found_7 += v_7 * b_7.w;
        more_7 += u_7 * b_7.w;
    }
    let all_a = max(subgroupAdd(sum_a), vec4<f32>(1.0e-30));
    let all_b = max(subgroupAdd(sum_b), vec4<f32>(1.0e-30));
    store(first + 0u, queries, kv, part, found_0 / all_a.x, more_0 / all_a.x);
    store(first + 1u, queries, kv, part, found_1 / all_a.y, more_1 / all_a.y);
    store(first + 2u, queries, kv, part, found_2 / all_a.z, more_2 / all_a.z);
    store(first + 3u, queries, kv, part, found_3 / all_a.w, more_3 / all_a.w);
    store(first + 4u, queries, kv, part, found_4 / all_b.x, more_4 / all_b.x);
    store(first + 5u, queries, kv, part, found_5 / all_b.y, more_5 / all_b.y);
    store(first + 6u, queries, kv, part, found_6 / all_b.z, more_6 / all_b.z);
    store(first + 7u, queries, kv, part, found_7 / all_b.w, more_7 / all_b.w);
}

fn store(query: u32, queries: u32, kv: u32, part: u32, found: vec4<f32>, more: vec4<f32>) {
    let shared_by = shape.heads / shape.kv_heads;
    let parts = shape.size / 4u;
    if query >= queries {
        return;
    }
    let at = ((query / shared_by) * shape.heads + kv * shared_by + query % shared_by) * parts + part;
    if part < parts {
        y[at] = found;
    }
    if part + 1u < parts {
        y[at + 1u] = more;
    }
}
