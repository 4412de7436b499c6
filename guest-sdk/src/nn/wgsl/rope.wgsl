// Rotary position embedding (Su et al., 2021) of queries, in place, and of keys on their way into the cache; values go there as
// they are. The cosines and sines come from the CPU, where they are exact, and for any scaling.

struct Shape {
    heads: u32,
    kv_heads: u32,
    /// Of a head.
    size: u32,
    tokens: u32,
    /// 1: the pairs are i and i + size / 2; 0: 2 i and 2 i + 1.
    halves: u32,
}

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
// Per token and pair.
@group(0) @binding(3) var<storage, read> angles: array<vec2<f32>>;
// Per token, where in the cache it goes.
@group(0) @binding(4) var<storage, read> places: array<u32>;
@group(0) @binding(5) var<storage, read> shape: Shape;
@group(0) @binding(6) var<storage, read_write> keys: array<f32>;
@group(0) @binding(7) var<storage, read_write> values: array<f32>;

@compute @workgroup_size(64)
fn rotate(@builtin(global_invocation_id) id: vec3<u32>) {
    let pairs = shape.size / 2u;
    let head = id.x / pairs;
    let pair = id.x % pairs;
    let token = id.y;
    if head >= shape.heads + shape.kv_heads || token >= shape.tokens {
        return;
    }
    let first = select(pair * 2u, pair, shape.halves != 0u);
    let second = select(pair * 2u + 1u, pair + pairs, shape.halves != 0u);
    let angle = angles[token * pairs + pair];
    if head < shape.heads {
        let at = (token * shape.heads + head) * shape.size;
        let a = q[at + first];
        let b = q[at + second];
        q[at + first] = a * angle.x - b * angle.y;
        q[at + second] = a * angle.y + b * angle.x;
    } else {
        let own = head - shape.heads;
        let at = (token * shape.kv_heads + own) * shape.size;
        let to = (places[token] * shape.kv_heads + own) * shape.size;
        let a = k[at + first];
        let b = k[at + second];
        keys[to + first] = a * angle.x - b * angle.y;
        keys[to + second] = a * angle.y + b * angle.x;
        values[to + first] = v[at + first];
        values[to + second] = v[at + second];
    }
}
