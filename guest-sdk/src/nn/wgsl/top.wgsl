// The largest values of each row and where they are, the largest first, the earlier of equals first. A workgroup has a row: it
// looks for the best one behind the one found before, so often as asked.

struct Shape {
    width: u32,
    count: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> shape: Shape;
// Per row: an index, then the bits of the value, for each.
@group(0) @binding(2) var<storage, read_write> y: array<vec2<u32>>;

const LEAST = -3.4e38;

var<workgroup> best: array<f32, 256>;
var<workgroup> place: array<u32, 256>;

// Whether a value comes before another.
fn precedes(a: f32, i: u32, b: f32, j: u32) -> bool {
    return a > b || (a == b && i < j);
}

@compute @workgroup_size(256)
fn top(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x * shape.width;
    var last = 3.4e38;
    var last_place = 0u;
    for (var n = 0u; n < shape.count; n++) {
        var own = LEAST;
        var own_place = 0xffffffffu;
        for (var i = lane; i < shape.width; i += 256u) {
            let value = x[at + i];
            if (n == 0u || precedes(last, last_place, value, i)) && precedes(value, i, own, own_place) {
                own = value;
                own_place = i;
            }
        }
        best[lane] = own;
        place[lane] = own_place;
        workgroupBarrier();
        for (var half = 128u; half > 0u; half /= 2u) {
            if lane < half && precedes(best[lane + half], place[lane + half], best[lane], place[lane]) {
                best[lane] = best[lane + half];
                place[lane] = place[lane + half];
            }
            workgroupBarrier();
        }
        last = best[0];
        last_place = place[0];
        if lane == 0u {
            y[group.x * shape.count + n] = vec2<u32>(last_place, bitcast<u32>(last));
        }
        workgroupBarrier();
    }
}
