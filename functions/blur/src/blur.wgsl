// A separable Gaussian: one pass along x, one along y. Pixels are RGBA, four bytes in one u32.

struct Image { width: u32, height: u32, radius: u32, sigma: f32 }

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
// Not a uniform: the software driver compiles a kernel anew for each value of a uniform that bounds a loop.
@group(0) @binding(2) var<storage, read> image: Image;

fn pixel(x: i32, y: i32) -> vec4<f32> {
    // The edge repeats.
    let cx = clamp(x, 0, i32(image.width) - 1);
    let cy = clamp(y, 0, i32(image.height) - 1);
    return unpack4x8unorm(source[u32(cy) * image.width + u32(cx)]);
}

fn blur(at: vec2<u32>, step: vec2<i32>) {
    if at.x >= image.width || at.y >= image.height { return; }
    let radius = i32(image.radius);
    let scale = -0.5 / (image.sigma * image.sigma);
    var sum = vec4<f32>();
    var weights = 0.0;
    for (var offset = -radius; offset <= radius; offset++) {
        let weight = exp(f32(offset * offset) * scale);
        sum += weight * pixel(i32(at.x) + offset * step.x, i32(at.y) + offset * step.y);
        weights += weight;
    }
    result[at.y * image.width + at.x] = pack4x8unorm(sum / weights);
}

@compute @workgroup_size(8, 8)
fn horizontal(@builtin(global_invocation_id) id: vec3<u32>) { blur(id.xy, vec2(1, 0)); }

@compute @workgroup_size(8, 8)
fn vertical(@builtin(global_invocation_id) id: vec3<u32>) { blur(id.xy, vec2(0, 1)); }
