// A function that only reads through a pointer leaves the variable the same for all invocations.
@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> tile: array<u32, 64>;

struct Shape { rows: u32, columns: u32 }

fn area(shape: ptr<function, Shape>) -> u32 { return (*shape).rows * (*shape).columns; }
fn rows(shape: ptr<function, Shape>) -> u32 { if (*shape).rows > 4u { return 4u; } return area(shape) % 4u; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var shape = Shape(data[0] % 8u, data[1] % 8u);
    var sum = 0u;
    for (var i = 0u; i < rows(&shape); i++) {
        tile[lane] = data[id.x] + i;
        workgroupBarrier();
        sum += tile[63u - lane];
        workgroupBarrier();
    }
    out[id.x] = sum + area(&shape);
}
