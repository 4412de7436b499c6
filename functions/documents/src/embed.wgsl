// The vector of a chunk: each of its n-grams, a hash, adds or subtracts one in one place (feature hashing, Weinberger et
// al. 2009). A workgroup makes one vector, an invocation one place of it.

const WIDTH = 256u;

@group(0) @binding(0) var<storage, read> hashes: array<u32>;
// Where the hashes of a chunk begin; one more than there are chunks.
@group(0) @binding(1) var<storage, read> begins: array<u32>;
@group(0) @binding(2) var<storage, read_write> vectors: array<f32>;

var<workgroup> squares: array<f32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) place: u32) {
    var sum = 0.0;
    for (var at = begins[group.x]; at < begins[group.x + 1u]; at++) {
        let hash = hashes[at];
        sum += select(0.0, select(-1.0, 1.0, (hash & 0x80000000u) != 0u), hash % WIDTH == place);
    }
    squares[place] = sum * sum;
    workgroupBarrier();
    for (var half = WIDTH / 2u; half > 0u; half /= 2u) {
        if place < half {
            squares[place] += squares[place + half];
        }
        workgroupBarrier();
    }
    vectors[group.x * WIDTH + place] = sum * inverseSqrt(max(squares[0], 1e-12));
}
