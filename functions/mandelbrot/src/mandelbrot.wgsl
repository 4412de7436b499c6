// How fast each point of the plane escapes under z² + c, as a colour.

struct View { width: u32, height: u32, steps: u32, unused: u32, x: f32, y: f32, scale: f32, unused2: f32 }

@group(0) @binding(0) var<storage, read_write> pixels: array<u32>;
// Not a uniform: the software driver compiles a kernel anew for each value of a uniform that bounds a loop.
@group(0) @binding(1) var<storage, read> view: View;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= view.width || id.y >= view.height { return; }
    let size = vec2(f32(view.width), f32(view.height));
    let c = vec2(view.x, view.y) + (vec2<f32>(id.xy) - 0.5 * size) * (view.scale / size.y);
    var z = vec2<f32>();
    var step = 0u;
    for (; step < view.steps && dot(z, z) <= 16.0; step++) {
        z = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + c;
    }
    var colour = vec3<f32>();
    if step < view.steps {
        // A fraction of a step, so that there are no bands.
        let smoothed = f32(step) + 1.0 - log2(max(log2(dot(z, z)) * 0.5, 1e-6));
        colour = 0.5 + 0.5 * cos(0.12 * smoothed + vec3(3.0, 3.6, 4.4));
    }
    pixels[id.y * view.width + id.x] = pack4x8unorm(vec4(colour, 1.0));
}
