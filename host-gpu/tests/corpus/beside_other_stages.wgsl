// A vertex and a fragment stage, and what only they use, are no part of the kernel.
@group(0) @binding(0) var<storage, read> data: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(1) @binding(0) var picture: texture_2d<f32>;
@group(1) @binding(1) var smooth_sampler: sampler;
@group(7) @binding(0) var<uniform> far_away: vec4<f32>;

var<workgroup> enormous: array<u32, 1000000>;

@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    return vec4<f32>(f32(index), 0.0, 0.0, 1.0) + far_away;
}

@fragment
fn color(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
    return textureSample(picture, smooth_sampler, at.xy) + dpdx(at);
}

fn unused_barrier(go: bool) { if go { workgroupBarrier(); } enormous[0] = 1u; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    out[id.x] = data[id.x] * 3u;
}
