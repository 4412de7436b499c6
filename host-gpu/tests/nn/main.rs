//! Tests the SDK's kernels for neural networks. Each is compared with the same computation on the CPU in f64.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test that fails panics")]

mod blocks;

use blocks::{Random, weights};
use gannet_host_gpu::{Batch, Binding, BindingSource, Device, KernelCatalog, Session, SessionLimits};
use gannet_sdk::nn::wgsl;
use std::sync::{Arc, OnceLock};

fn device() -> &'static Arc<Device> {
    static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let gpus = gannet_host_gpu::discover();
        Device::open(gannet_host_gpu::adapter::preferred(&gpus).unwrap().index, 1 << 32).unwrap()
    })
}

/// The contents of a binding. `Out` is read back after the dispatch.
enum Bound<'a> {
    Bytes(Vec<u8>),
    Words(&'a [u32]),
    Shape(Vec<u32>),
    Values(&'a [f32]),
    Out(Vec<f32>),
}

/// Runs a kernel once and returns the contents of its writable bindings.
fn run(source: &str, entry: &str, bound: Vec<Bound<'_>>, grid: [u32; 3]) -> Vec<Vec<f32>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let limits =
            SessionLimits { memory_bytes: 1 << 28, gpu_ns: 60_000_000_000, loop_work: gannet_host_gpu::LOOP_WORK };
        let mut session = Session::new(Arc::clone(device()), Arc::new(KernelCatalog::new()), limits);
        let kernel = session.compile_kernel(source, entry, &[]).run().await.unwrap_or_else(|error| panic!("{error}"));
        let (mut batch, mut bindings, mut outs) = (Batch::default(), Vec::new(), Vec::new());
        for (index, bound) in (0..).zip(bound) {
            let bytes = match &bound {
                Bound::Bytes(bytes) => bytes.clone(),
                Bound::Words(words) => bytemuck::cast_slice(words).to_vec(),
                Bound::Shape(words) => bytemuck::cast_slice(words).to_vec(),
                Bound::Values(values) => bytemuck::cast_slice(values).to_vec(),
                Bound::Out(values) => bytemuck::cast_slice(values).to_vec(),
            };
            let buffer = session.create_buffer((bytes.len() as u64).next_multiple_of(16)).unwrap();
            let length = bytes.len() as u64;
            let padded = [bytes, vec![0; (length.next_multiple_of(4) - length) as usize]].concat();
            session.write_buffer(&buffer, 0, padded).unwrap();
            if matches!(bound, Bound::Out(_)) {
                outs.push((Arc::clone(&buffer), length));
            }
            // An entry point may use fewer variables than its source has, for example a norm without a bias.
            if kernel.variables.iter().any(|variable| variable.index == index) {
                let size = length.next_multiple_of(4);
                bindings.push(Binding { group: 0, index, source: BindingSource::Buffer(buffer, 0, Some(size)) });
            }
        }
        batch.dispatch(&session, &kernel, bindings, grid).unwrap_or_else(|error| panic!("{error}"));
        for (buffer, length) in &outs {
            batch.read(buffer, 0, *length).unwrap();
        }
        let mut submission = batch.encode(&mut session).unwrap().submit().await.unwrap();
        submission.wait().await.unwrap();
        submission.take_reads().await.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect()
    })
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0f64, |most, value| most.max(value.abs())).max(1e-9);
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs() / most;
        assert!(off <= tolerance, "{what}: value {at} is {found}, not {expected}: off by {off:e} of {most}");
    }
}

const FORMATS: [(&str, [&str; 4], &str); 7] = [
    ("f32", [wgsl::F32_ROWS, wgsl::F32_LANES, wgsl::F32_HALF, wgsl::F32_PLAIN], wgsl::F32_GATHER),
    ("f16", [wgsl::F16_ROWS, wgsl::F16_LANES, wgsl::F16_HALF, wgsl::F16_PLAIN], wgsl::F16_GATHER),
    ("q8_0", [wgsl::Q8_0_ROWS, wgsl::Q8_0_LANES, wgsl::Q8_0_HALF, wgsl::Q8_0_PLAIN], wgsl::Q8_0_GATHER),
    ("q4_0", [wgsl::Q4_0_ROWS, wgsl::Q4_0_LANES, wgsl::Q4_0_HALF, wgsl::Q4_0_PLAIN], wgsl::Q4_0_GATHER),
    ("q4_1", [wgsl::Q4_1_ROWS, wgsl::Q4_1_LANES, wgsl::Q4_1_HALF, wgsl::Q4_1_PLAIN], wgsl::Q4_1_GATHER),
    ("q4_k", [wgsl::Q4_K_ROWS, wgsl::Q4_K_LANES, wgsl::Q4_K_HALF, wgsl::Q4_K_PLAIN], wgsl::Q4_K_GATHER),
    ("q6_k", [wgsl::Q6_K_ROWS, wgsl::Q6_K_LANES, wgsl::Q6_K_HALF, wgsl::Q6_K_PLAIN], wgsl::Q6_K_GATHER),
];

const GELU: u32 = 2;
const BIAS: u32 = 1;
const ADD: u32 = 4;

/// erf by its series (Abramowitz and Stegun, 7.1.6).
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

#[test]
fn products_of_every_format_are_those_of_the_cpu() {
    let mut random = Random(1);
    // The number of rows is a multiple of no block size. A row has two blocks of the largest format.
    let (rows, inner) = (37usize, 512usize);
    for (format, kinds, _) in FORMATS {
        let weights = weights(format, rows, inner, &mut random);
        for (kind, source) in ["rows", "lanes", "half", "plain"].iter().zip(kinds) {
            if (*kind != "plain" && !device().has_subgroups()) || (*kind == "half" && !device().has_f16()) {
                continue;
            }
            let wide = (*kind == "rows").then_some(("wide", 40usize, ADD));
            let some = [("vector", 1, 0), ("vector", 3, ADD), ("matrix", 13, BIAS | GELU), ("matrix", 8, BIAS | ADD)];
            for (entry, tokens, flags) in some.into_iter().chain(wide) {
                if *kind == "half" && entry != "matrix" {
                    continue;
                }
                let x = random.floats(tokens * inner);
                let bias = random.floats(rows);
                let before = random.floats(tokens * rows);
                let mut expected = Vec::new();
                for t in 0..tokens {
                    for (r, row) in weights.rows.iter().enumerate() {
                        let products = row.iter().zip(&x[t * inner..]).map(|(w, x)| w * f64::from(*x));
                        let mut value: f64 = products.sum();
                        if flags & BIAS != 0 {
                            value += f64::from(bias[r]);
                        }
                        if flags & GELU != 0 {
                            // Beyond ±6, gelu is practically max(0, x), and the series of erf would need more terms.
                            value = if value.abs() < 6.0 { gelu(value) } else { value.max(0.0) };
                        }
                        if flags & ADD != 0 {
                            value += f64::from(before[t * rows + r]);
                        }
                        expected.push(value);
                    }
                }
                let number = |n: usize| u32::try_from(n).unwrap();
                let shape = [number(rows), number(inner), number(tokens), number(inner / 4), number(rows), flags];
                let per_group = if *kind == "rows" { 128 } else { 4 };
                let down = number(tokens).div_ceil(match (*kind, entry) {
                    (_, "vector") => 1,
                    ("rows", "matrix") => 16,
                    ("rows", _) => 32,
                    _ => 8,
                });
                let found = run(
                    source,
                    entry,
                    vec![
                        Bound::Bytes(weights.bytes.clone()),
                        Bound::Values(&x),
                        Bound::Values(&bias),
                        Bound::Words(&shape),
                        Bound::Out(before.clone()),
                    ],
                    [number(rows).div_ceil(per_group), down, 1],
                );
                // Half precision has 11 bits of mantissa, and each sum of eight products is rounded to it.
                let tolerance = if *kind == "half" { 2e-3 } else { 2e-6 };
                close(&format!("{format} by {kind}, {entry} of {tokens}"), &found[0], &expected, tolerance);
            }
        }
    }
}

/// Both factors have numbers that half precision cannot represent, and blocks of zeros.
#[test]
fn products_in_half_precision_do_not_overflow() {
    if !device().has_subgroups() || !device().has_f16() {
        return;
    }
    let mut random = Random(7);
    let (rows, inner, tokens) = (5usize, 1056usize, 9usize);
    for size in [1e-17f32, 1e6, 1e15] {
        let mut grown = |count: usize| {
            let mut values = random.floats(count);
            for (block, values) in values.chunks_mut(32).enumerate() {
                let factor = [size, 0.0, size / 8.0][block % 3];
                values.iter_mut().for_each(|value| *value *= factor);
            }
            values
        };
        let (weights, x) = (grown(rows * inner), grown(tokens * inner));
        let expected: Vec<f64> = x
            .chunks(inner)
            .flat_map(|x| weights.chunks(inner).map(move |w| (w, x)))
            .map(|(w, x)| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum())
            .collect();
        let shape = [rows, inner, tokens, inner / 4, rows, 0].map(|n| u32::try_from(n).unwrap());
        let found = run(
            wgsl::F32_HALF,
            "matrix",
            vec![
                Bound::Bytes(bytemuck::cast_slice(&weights).to_vec()),
                Bound::Values(&x),
                Bound::Values(&[0.0]),
                Bound::Words(&shape),
                Bound::Out(vec![0.0; rows * tokens]),
            ],
            [2, 2, 1],
        );
        let scale = 1.0 / f64::from(size).powi(2);
        let scaled: Vec<f32> = found[0].iter().map(|y| (f64::from(*y) * scale) as f32).collect();
        let expected: Vec<f64> = expected.iter().map(|y| y * scale).collect();
        close(&format!("about {size:e}"), &scaled, &expected, 2e-3);
    }
}

#[test]
fn gathered_rows_of_every_format_are_those_of_the_cpu() {
    let mut random = Random(2);
    for (format, _, source) in FORMATS {
        let weights = weights(format, 9, 256, &mut random);
        let before = random.floats(5 * 256);
        // The last index is out of range. It must return the last row, not other memory.
        let ids = [8u32, 0, 3, 3, 700];
        for add in [0u32, 1] {
            let rows = ids.iter().flat_map(|id| &weights.rows[(*id as usize).min(8)]);
            let expected: Vec<f64> = rows.zip(&before).map(|(w, b)| w + f64::from(add as f32 * b)).collect();
            let found = run(
                source,
                "gather",
                vec![
                    Bound::Bytes(weights.bytes.clone()),
                    Bound::Words(&ids),
                    Bound::Shape(vec![9, 256, 5, add]),
                    Bound::Out(before.clone()),
                ],
                [1, 1, 1],
            );
            close(&format!("rows of {format}"), &found[0], &expected, 1e-6);
        }
    }
}

#[test]
fn norms_softmax_pooling_and_activations_are_those_of_the_cpu() {
    let mut random = Random(3);
    let (width, rows) = (576usize, 3usize);
    let (x, weight, bias) = (random.floats(width * rows), random.floats(width), random.floats(width));
    let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
    let each = |with: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
        wide.chunks(width).flat_map(|row| (0..width).map(|i| with(row, i)).collect::<Vec<_>>()).collect()
    };
    let epsilon = 1e-5f32;
    let shape = [width as u32, epsilon.to_bits()];
    let norm = |entry: &str| {
        let bound = vec![
            Bound::Values(&x),
            Bound::Values(&weight),
            Bound::Words(&shape),
            Bound::Out(vec![0.0; width * rows]),
            Bound::Values(&bias),
        ];
        run(wgsl::NORM, entry, bound, [rows as u32, 1, 1]).remove(0)
    };
    let mean_of = |row: &[f64], with: &dyn Fn(f64) -> f64| row.iter().map(|v| with(*v)).sum::<f64>() / width as f64;
    let rms = each(&|row, i| row[i] / (mean_of(row, &|v| v * v) + f64::from(epsilon)).sqrt() * f64::from(weight[i]));
    close("rms norm", &norm("rms"), &rms, 1e-5);
    let layer = each(&|row, i| {
        let mean = mean_of(row, &|v| v);
        let variance = mean_of(row, &|v| (v - mean) * (v - mean));
        (row[i] - mean) / (variance + f64::from(epsilon)).sqrt() * f64::from(weight[i]) + f64::from(bias[i])
    });
    close("layer norm", &norm("layer"), &layer, 1e-5);
    let softmax = each(&|row, i| row[i].exp() / row.iter().map(|v| v.exp()).sum::<f64>());
    let found = run(
        wgsl::SOFTMAX,
        "softmax",
        vec![Bound::Out(x.clone()), Bound::Shape(vec![width as u32])],
        [rows as u32, 1, 1],
    );
    close("softmax", &found[0], &softmax, 1e-5);

    let spans = [0u32, 2, 2, 3];
    for normalize in [0u32, 1] {
        let mut expected = Vec::new();
        for span in spans.chunks(2) {
            let count = f64::from(span[1] - span[0]);
            let mean = |i: usize| (span[0]..span[1]).map(|row| wide[row as usize * width + i]).sum::<f64>() / count;
            let values: Vec<f64> = (0..width).map(mean).collect();
            let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
            expected.extend(values.iter().map(|v| if normalize == 1 { v / length } else { *v }));
        }
        let bound = vec![
            Bound::Values(&x),
            Bound::Words(&spans),
            Bound::Shape(vec![width as u32, normalize]),
            Bound::Out(vec![0.0; width * 2]),
        ];
        close("mean of rows", &run(wgsl::POOL, "mean", bound, [2, 1, 1])[0], &expected, 1e-5);
    }

    let other = random.floats(x.len());
    let activation = |entry: &str| {
        let bound = vec![Bound::Out(x.clone()), Bound::Values(&other)];
        run(wgsl::ACTIVATION, entry, bound, [(x.len() as u32).div_ceil(64), 1, 1]).remove(0)
    };
    let swiglu: Vec<f64> = wide.iter().zip(&other).map(|(v, o)| v / (1.0 + (-v).exp()) * f64::from(*o)).collect();
    close("swiglu", &activation("swiglu"), &swiglu, 1e-5);
    close("gelu", &activation("gelu"), &wide.iter().map(|v| gelu(*v)).collect::<Vec<_>>(), 1e-5);
    let sums: Vec<f64> = wide.iter().zip(&other).map(|(v, o)| v + f64::from(*o)).collect();
    close("sum", &activation("add"), &sums, 1e-6);
}

#[test]
fn the_largest_values_come_first_and_the_earlier_of_equals() {
    let mut random = Random(4);
    let width = 5000usize;
    // Coarse numbers, so that many are equal.
    let x: Vec<f32> = (0..width * 2).map(|_| random.below(40) as f32 - 20.0).collect();
    let count = 50usize;
    let bound =
        vec![Bound::Values(&x), Bound::Shape(vec![width as u32, count as u32]), Bound::Out(vec![0.0; count * 4])];
    let found = run(wgsl::TOP, "top", bound, [2, 1, 1]).remove(0);
    for (row, found) in x.chunks(width).zip(found.chunks(count * 2)) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        for (expected, pair) in order.iter().zip(found.chunks(2)) {
            assert_eq!((pair[0].to_bits() as usize, pair[1]), (*expected, row[*expected]));
        }
    }
}

#[test]
fn rotations_go_into_the_cache_and_attention_is_that_of_the_cpu() {
    let mut random = Random(5);
    for (heads, kv_heads, size, halves) in [(9usize, 3usize, 64usize, 0u32), (4, 4, 32, 1)] {
        let (tokens, room) = (5usize, 300usize);
        let (q, k, v) = (
            random.floats(tokens * heads * size),
            random.floats(tokens * kv_heads * size),
            random.floats(tokens * kv_heads * size),
        );
        let cache = [random.floats(room * kv_heads * size), random.floats(room * kv_heads * size)];
        let places: Vec<u32> = vec![295, 296, 297, 298, 299];
        let angles: Vec<f32> = (0..tokens * size / 2)
            .flat_map(|at| {
                let angle = at as f32 * 0.7;
                [angle.cos(), angle.sin()]
            })
            .collect();
        let number = |n: usize| u32::try_from(n).unwrap();
        let rotated = |values: &[f32], heads: usize| -> Vec<f64> {
            let mut out: Vec<f64> = values.iter().copied().map(f64::from).collect();
            for token in 0..tokens {
                for head in 0..heads {
                    for pair in 0..size / 2 {
                        let (first, second) =
                            if halves == 1 { (pair, pair + size / 2) } else { (2 * pair, 2 * pair + 1) };
                        let at = (token * heads + head) * size;
                        let (a, b) = (f64::from(values[at + first]), f64::from(values[at + second]));
                        let place = (token * size / 2 + pair) * 2;
                        let (cos, sin) = (f64::from(angles[place]), f64::from(angles[place + 1]));
                        out[at + first] = a * cos - b * sin;
                        out[at + second] = a * sin + b * cos;
                    }
                }
            }
            out
        };
        let shape = [number(heads), number(kv_heads), number(size), number(tokens), halves];
        let found = run(
            wgsl::ROPE,
            "rotate",
            vec![
                Bound::Out(q.clone()),
                Bound::Values(&k),
                Bound::Values(&v),
                Bound::Values(&angles),
                Bound::Words(&places),
                Bound::Words(&shape),
                Bound::Out(cache[0].clone()),
                Bound::Out(cache[1].clone()),
            ],
            [number((heads + kv_heads) * size / 2).div_ceil(64), number(tokens), 1],
        );
        close("rotated queries", &found[0], &rotated(&q, heads), 1e-6);
        let mut keys: Vec<f64> = cache[0].iter().copied().map(f64::from).collect();
        let mut values: Vec<f64> = cache[1].iter().copied().map(f64::from).collect();
        let from = 295 * kv_heads * size;
        keys[from..from + k.len()].copy_from_slice(&rotated(&k, kv_heads));
        values[from..from + v.len()].copy_from_slice(&v.iter().copied().map(f64::from).collect::<Vec<_>>());
        close("keys", &found[1], &keys, 1e-6);
        close("values", &found[2], &values, 1e-6);

        // Spans of one key, less than a tile, several tiles, all keys, and none.
        let spans = [0u32, 1, 7, 40, 3, 200, 0, 300, 5, 5];
        let mut expected = Vec::new();
        for (token, span) in spans.chunks(2).enumerate() {
            for head in 0..heads {
                let own = &found[0][(token * heads + head) * size..][..size];
                let kv = head / (heads / kv_heads);
                let row = |all: &[f64], key: u32| all[(key as usize * kv_heads + kv) * size..][..size].to_vec();
                let scores: Vec<f64> = (span[0]..span[1])
                    .map(|key| {
                        own.iter().zip(row(&keys, key)).map(|(q, k)| f64::from(*q) * k).sum::<f64>()
                            / (size as f64).sqrt()
                    })
                    .collect();
                let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                let mut out = vec![0.0; size];
                for (key, score) in (span[0]..span[1]).zip(&scores) {
                    out.iter_mut().zip(row(&values, key)).for_each(|(out, v)| *out += score.exp() / sum * v);
                }
                expected.extend(out);
            }
        }
        let scale = 1.0 / (size as f32).sqrt();
        let shape = [number(heads), number(kv_heads), number(size), scale.to_bits(), number(tokens)];
        let queries = number(tokens * heads / kv_heads);
        for (what, source, grid) in [
            ("attention", wgsl::ATTENTION, [number(heads), number(tokens), 1]),
            ("attention by rows", wgsl::ATTENTION_ROWS, [number(kv_heads), queries.div_ceil(8), 1]),
        ] {
            if source == wgsl::ATTENTION_ROWS && !device().has_subgroups() {
                continue;
            }
            let attended = run(
                source,
                "attend",
                vec![
                    Bound::Values(&found[0]),
                    Bound::Values(&found[1]),
                    Bound::Values(&found[2]),
                    Bound::Words(&spans),
                    Bound::Words(&shape),
                    Bound::Out(vec![0.0; tokens * heads * size]),
                ],
                grid,
            );
            close(what, &attended[0], &expected, 1e-5);
        }
    }
}
