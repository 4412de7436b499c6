// C = A × B, in tiles of 16 × 16 that a workgroup loads once into its own memory.

struct Size { rows: u32, inner: u32, columns: u32 }

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
// Not a uniform: the software driver compiles a kernel anew for each value of a uniform that bounds a loop.
@group(0) @binding(3) var<storage, read> size: Size;

const TILE = 16u;
var<workgroup> tile_a: array<array<f32, TILE>, TILE>;
var<workgroup> tile_b: array<array<f32, TILE>, TILE>;

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y * TILE + local.y;
    let column = group.x * TILE + local.x;
    var sum = 0.0;
    for (var start = 0u; start < size.inner; start += TILE) {
        let k_a = start + local.x;
        let k_b = start + local.y;
        tile_a[local.y][local.x] = select(0.0, a[row * size.inner + k_a], row < size.rows && k_a < size.inner);
        tile_b[local.y][local.x] = select(0.0, b[k_b * size.columns + column], k_b < size.inner && column < size.columns);
        workgroupBarrier();
        for (var k = 0u; k < TILE; k++) {
            sum += tile_a[local.y][k] * tile_b[k][local.x];
        }
        workgroupBarrier();
    }
    if row < size.rows && column < size.columns {
        c[row * size.columns + column] = sum;
    }
}
