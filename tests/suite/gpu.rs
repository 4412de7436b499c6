//! Functions that use the GPU: their results compared with the CPU's, and the errors for wrong use.

use crate::support::Server;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

fn photo() -> Vec<u8> {
    std::fs::read(crate::support::root().join("tests/photo/astronaut.png")).unwrap()
}

/// One pass of the blur, as `blur.wgsl` defines it.
fn pass(pixels: &[[f32; 4]], width: i64, height: i64, radius: i64, step: (i64, i64)) -> Vec<[f32; 4]> {
    let sigma = radius as f32 / 2.0;
    let mut out = Vec::with_capacity(pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (mut sum, mut weights) = ([0.0f32; 4], 0.0f32);
            for offset in -radius..=radius {
                let weight = ((offset * offset) as f32 * -0.5 / (sigma * sigma)).exp();
                let (cx, cy) = ((x + offset * step.0).clamp(0, width - 1), (y + offset * step.1).clamp(0, height - 1));
                for (total, value) in sum.iter_mut().zip(pixels[(cy * width + cx) as usize]) {
                    *total += weight * value;
                }
                weights += weight;
            }
            // Rounded to bytes between the passes, as the kernel stores them.
            out.push(sum.map(|total| (total / weights).round()));
        }
    }
    out
}

#[test]
fn a_photograph_comes_back_blurred() {
    let server = Server::shared();
    let answer = server.call("blur", "/?radius=5", &photo());
    assert_eq!(answer.header("content-type"), "image/png", "{}", String::from_utf8_lossy(answer.bytes()));
    let blurred = image::load_from_memory(answer.bytes()).unwrap().to_rgba8();
    let source = image::load_from_memory(&photo()).unwrap().to_rgba8();
    assert_eq!(blurred.dimensions(), source.dimensions());
    let (width, height) = (i64::from(source.width()), i64::from(source.height()));
    let pixels: Vec<[f32; 4]> = source.pixels().map(|p| p.0.map(f32::from)).collect();
    let expected = pass(&pass(&pixels, width, height, 5, (1, 0)), width, height, 5, (0, 1));
    for (index, (got, want)) in blurred.pixels().zip(&expected).enumerate() {
        for (got, want) in got.0.iter().zip(want) {
            assert!((f32::from(*got) - want).abs() <= 1.0, "pixel {index}: {got} against {want}");
        }
    }
    let receipt = server.receipt(&answer);
    // Seven million multiplications take longer than one slice on a slow GPU.
    assert!(receipt["slices"].as_u64().unwrap() >= 1, "{receipt}");
    assert!(receipt["gpu_ns"].as_u64().unwrap() > 0, "{receipt}");
}

#[test]
fn a_jpeg_is_read_too_and_what_is_no_picture_is_400() {
    let server = Server::shared();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    let photo = image::load_from_memory(&photo()).unwrap().to_rgb8();
    photo.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let answer = server.call("blur", "/?radius=2", jpeg.get_ref());
    assert_eq!((answer.status, answer.header("content-type")), (200, "image/png"));
    let wrong = server.call("blur", "/", b"this is no picture");
    assert_eq!((wrong.status, wrong.json()["code"].clone()), (400, "image_invalid".into()));
    // It is the function's own error, so the platform's header is missing.
    assert_eq!(wrong.header("x-gannet-error"), "");
    assert_eq!(server.call("blur", "/?radius=1000", b"x").json()["code"], "radius_invalid");
}

#[test]
fn a_matrix_product_is_the_cpus() {
    let server = Server::shared();
    let (rows, inner, columns) = (37usize, 70usize, 53usize);
    let value = |n: usize| ((n * 7919) % 1000) as f32 / 500.0 - 1.0;
    let a: Vec<f32> = (0..rows * inner).map(value).collect();
    let b: Vec<f32> = (0..inner * columns).map(|n| value(n + 13)).collect();
    let body: Vec<u8> = a.iter().chain(&b).flat_map(|v| v.to_le_bytes()).collect();
    let answer = server.call("matmul", &format!("/?rows={rows}&inner={inner}&columns={columns}"), &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let product: Vec<f32> = answer.bytes().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(product.len(), rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let expected: f32 = (0..inner).map(|k| a[row * inner + k] * b[k * columns + column]).sum();
            let got = product[row * columns + column];
            assert!((got - expected).abs() < 1e-3, "({row}, {column}): {got} against {expected}");
        }
    }
    assert_eq!(server.call("matmul", "/?rows=2&inner=2&columns=2", b"abcd").json()["code"], "size_mismatch");
}

#[test]
fn the_mandelbrot_set_is_black_inside_and_coloured_outside() {
    let answer = Server::shared().call("mandelbrot", "/?width=120&height=90", b"");
    let picture = image::load_from_memory(answer.bytes()).unwrap().to_rgba8();
    assert_eq!(picture.dimensions(), (120, 90));
    assert_eq!(picture.get_pixel(60, 45).0, [0, 0, 0, 255]);
    assert_ne!(picture.get_pixel(2, 2).0[..3], [0, 0, 0]);
}

fn u32s(values: &[u32]) -> String {
    STANDARD.encode(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

#[test]
fn the_playground_runs_the_kernel_that_is_posted() {
    let job = json!({
        "wgsl": "override N: u32 = 1; struct P { add: u32 } @group(0) @binding(0) var<storage, read_write> a: array<u32>; @group(1) @binding(3) var<uniform> p: P; @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { if id.x < arrayLength(&a) { a[id.x] = a[id.x] * N + p.add; } }",
        "grid": [1, 1, 1], "constants": {"N": 4},
        "buffers": [{"group": 0, "binding": 0, "data": u32s(&[1, 2, 3]), "read": true}, {"group": 1, "binding": 3, "data": u32s(&[5]), "kind": "uniform"}],
    });
    let answer = Server::shared().call("wgsl", "/", job.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let result = answer.json();
    assert_eq!(result["buffers"], json!([{"group": 0, "binding": 0, "data": u32s(&[9, 13, 17])}]));
    assert_eq!(result["receipt"]["slices"], 1);
    assert!(result["receipt"]["gpu_ns"].as_u64().unwrap() > 0);
}

#[test]
fn writes_of_odd_sizes_all_arrive() {
    let server = Server::shared();
    // Two uploads of 4 and 12 bytes: mapped ranges begin at multiples of 8, and these do not.
    let job = json!({
        "wgsl": "@group(0) @binding(0) var<storage, read_write> a: array<u32>; @group(0) @binding(1) var<storage, read> b: array<u32>; @group(0) @binding(2) var<storage, read> c: array<u32>; @compute @workgroup_size(1) fn main() { a[0] = b[0] + c[2]; }",
        "grid": [1, 1, 1],
        "buffers": [{"group": 0, "binding": 0, "size": 4, "read": true}, {"group": 0, "binding": 1, "data": u32s(&[40])}, {"group": 0, "binding": 2, "data": u32s(&[0, 0, 2])}],
    });
    let answer = server.call("wgsl", "/", job.to_string().as_bytes());
    assert_eq!(answer.json()["buffers"][0]["data"], u32s(&[42]), "{}", answer.text());
}

#[test]
fn a_kernel_that_would_exhaust_the_compiler_is_refused_and_the_worker_lives() {
    let server = Server::shared();
    let chain: String = (0..400).map(|n| format!(" else if x == {n}u {{ x = 1u; }}")).collect();
    let deep = format!("@compute @workgroup_size(1) fn main() {{ var x = 1u; if x == 0u {{ }}{chain} }}");
    let value = "@group(0) @binding(0) var<storage, read_write> o: array<u32>; @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) { let z = array<u32, 100000000>(); o[0] = z[id.x]; }".to_owned();
    for (wgsl, part) in [(deep, "nested more than 128 deep"), (value, "a value has 400000000 bytes")] {
        let answer = server.call("wgsl", "/", json!({"wgsl": wgsl, "grid": [1, 1, 1]}).to_string().as_bytes());
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (422, "kernel_rejected".into()),
            "{}",
            answer.text()
        );
        assert!(answer.json()["detail"].as_str().unwrap().contains(part), "{}", answer.text());
    }
}

#[test]
fn the_playground_tells_what_is_wrong_with_a_job() {
    let copy = "@group(0) @binding(0) var<storage, read_write> a: array<u32>; @compute @workgroup_size(1) fn main() { a[0] = 1u; }";
    let buffer = json!({"group": 0, "binding": 0, "size": 16, "read": true});
    for (job, status, code, part) in [
        (json!({"wgsl": "fn main( {", "grid": [1, 1, 1]}), 422, "kernel_rejected", "1:10: "),
        (json!({"wgsl": copy, "grid": [1, 1, 1]}), 400, "invalid_argument", "has no binding"),
        (
            json!({"wgsl": copy, "grid": [1, 1, 1], "buffers": [buffer, buffer]}),
            400,
            "invalid_argument",
            "is bound twice",
        ),
        (json!({"wgsl": copy, "grid": [70000, 1, 1], "buffers": [buffer]}), 400, "invalid_argument", "at most 65535"),
        (
            json!({"wgsl": copy, "grid": [1, 1, 1], "buffers": [{"group": 0, "binding": 0, "size": 1u64 << 30}]}),
            502,
            "gpu_memory_quota",
            "gpu memory limit",
        ),
        (json!({"wgsl": copy, "entry": "other", "grid": [1, 1, 1]}), 422, "kernel_rejected", "no compute entry point"),
        (json!({"grid": [1, 1, 1]}), 400, "job_invalid", "wgsl"),
    ] {
        let answer = Server::shared().call("wgsl", "/", job.to_string().as_bytes());
        assert_eq!((answer.status, answer.json()["code"].clone()), (status, code.into()), "{}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(part), "{}", answer.text());
    }
}

#[test]
fn a_dispatch_with_wrong_bindings_is_told_value_and_limit() {
    let server = Server::shared();
    for (path, part) in [
        ("/gpu/missing", "has no binding"),
        ("/gpu/extra", "the kernel uses no such variable"),
        ("/gpu/small", "64 bytes are bound; variable \"a\" needs at least 256"),
        ("/gpu/misaligned", "is not a multiple of"),
        ("/gpu/grid", "each dimension has at most 65535"),
        ("/gpu/write", "260 bytes from offset 0 pass the end of a buffer of 256 bytes"),
        ("/gpu/read", "pass the end of a buffer of 256 bytes"),
        ("/gpu/quota", "limit of 8388608 bytes"),
        ("/gpu/alias", "is the same buffer"),
    ] {
        let answer = server.call("faulty", path, b"");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(answer.status >= 500 && detail.contains(part), "{path}: {detail}");
    }
    assert_eq!(server.call("faulty", "/gpu/fine", b"").text(), "1 slices");
}
