// Functions that take pointers to elements and members.
struct Pair { a: u32, b: vec2<f32>, c: array<u32, 4> }

@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<private> own: array<u32, 4>;

fn bump(p: ptr<function, u32>, by: u32) -> u32 { *p += by; return *p; }
fn bump_own(p: ptr<private, u32>) { *p += 7u; }
fn twice(p: ptr<function, array<u32, 4>>, at: u32) -> u32 { return bump(&(*p)[at & 3u], 2u) + bump(&(*p)[1], 3u); }
fn half(p: ptr<function, vec2<f32>>) { *p *= 0.5; }
fn peek(p: ptr<function, u32>) -> u32 { return *p + 1u; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var pair = Pair(data[id.x], vec2<f32>(3.0, 5.0), array<u32, 4>(1u, 2u, 3u, 4u));
    var words = array<u32, 4>(9u, 8u, 7u, 6u);
    own[id.x & 3u] = id.x;
    var sum = bump(&pair.a, 1u);
    sum += bump(&pair.c[data[id.x] & 3u], 5u);
    sum += twice(&pair.c, id.x);
    half(&pair.b);
    bump_own(&own[id.x & 3u]);
    for (var i = 0u; i < data[0] % 5u; i++) { sum += bump(&words[i & 3u], i); }
    let last = &words[3];
    sum += peek(last) + bump(last, 1u) + peek(&words[0]);
    out[id.x] = sum + pair.a + u32(pair.b.x * 4.0) + pair.c[0] + pair.c[3] + words[1] + words[3] + own[id.x & 3u];
}
