//! Tests of hardening on a real driver: results must stay equal to the bit, and a kernel that does
//! not end by itself must be ended by its budget.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test that fails panics")]
#![allow(clippy::print_stdout, reason = "figures, for --nocapture")]

mod loop_nests;
mod shaders;

use gannet_host_gpu::check::Access;
use gannet_host_gpu::harden::Passes;
use gannet_host_gpu::{Batch, Binding, BindingSource, Device, Error, Kernel, KernelCatalog, Session, SessionLimits};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const GRID: [u32; 3] = [5, 3, 2];
const BYTES: usize = 64 * 1024;

fn device() -> &'static Arc<Device> {
    static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let gpus = gannet_host_gpu::discover();
        Device::open(gannet_host_gpu::adapter::preferred(&gpus).unwrap().index, 1 << 32).unwrap()
    })
}

fn session() -> Session {
    let limits =
        SessionLimits { memory_bytes: 1 << 30, gpu_ns: 120_000_000_000, loop_work: gannet_host_gpu::LOOP_WORK };
    Session::new(Arc::clone(device()), Arc::new(KernelCatalog::new()), limits)
}

/// Makes pseudo-random numbers, the same each time. `small`: from 1 to 16, for kernels that use them as sizes.
fn input(small: bool) -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes = Vec::with_capacity(BYTES);
    while bytes.len() < BYTES {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let value = state ^ (state >> 15);
        bytes.extend_from_slice(&if small { value % 16 + 1 } else { value }.to_le_bytes());
    }
    bytes
}

/// Runs a kernel once and returns the contents of its writable variables.
async fn run(kernel: &Arc<Kernel>, grid: [u32; 3], small: bool) -> Result<Vec<Vec<u8>>, Error> {
    let mut session = session();
    let mut bindings = Vec::new();
    let mut batch = Batch::default();
    let mut written = Vec::new();
    for variable in &kernel.variables {
        let size = if variable.access == Access::Uniform { 1024 } else { BYTES as u64 };
        let buffer = session.create_buffer(size.max(variable.size_min.next_multiple_of(16)))?;
        if variable.access == Access::ReadWrite {
            written.push(Arc::clone(&buffer));
        } else {
            session.write_buffer(&buffer, 0, input(small)[..usize::try_from(size).unwrap()].to_vec())?;
        }
        bindings.push(Binding {
            group: variable.group,
            index: variable.index,
            source: BindingSource::Buffer(buffer, 0, None),
        });
    }
    batch.dispatch(&session, kernel, bindings, grid)?;
    for buffer in &written {
        batch.read(buffer, 0, buffer.size())?;
    }
    let mut submission = batch.encode(&mut session)?.submit().await?;
    submission.wait().await?;
    Ok(submission.take_reads().await)
}

async fn compile(wgsl: &str, entry: &str, passes: Passes) -> Result<Arc<Kernel>, Error> {
    // The session must live until the kernel is compiled: dropping it would cancel the trial dispatch.
    let session = session();
    let (wgsl, entry, payer) = (wgsl.to_owned(), entry.to_owned(), session.payer());
    let compiled = tokio::task::spawn_blocking(move || device().kernel_with(&wgsl, &entry, &[], &payer, passes));
    compiled.await.unwrap()
}

fn passes(budget: bool, sliceable: bool) -> Passes {
    Passes { budget, sliceable, ..Passes::all(device().abilities().unit) }
}

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(root.join("tests/corpus")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for function in ["blur", "matmul", "mandelbrot", "measure"] {
        for entry in std::fs::read_dir(root.join("../functions").join(function).join("src")).unwrap() {
            paths.push(entry.unwrap().path());
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wgsl"));
    paths.sort();
    paths
}

#[tokio::test]
async fn hardened_kernels_compute_the_same_to_the_bit() {
    let mut kernels = 0;
    let mut wrong = Vec::new();
    for path in sources() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let wgsl = std::fs::read_to_string(&path).unwrap();
        let small = !path.starts_with(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
        if name.starts_with("subgroup") && !device().has_subgroups() {
            continue;
        }
        for entry in gannet_host_gpu::check::entry_points(&wgsl).unwrap_or_else(|e| panic!("{name}: {e}")) {
            kernels += 1;
            println!("{name}/{entry}");
            let plain = compile(&wgsl, &entry, passes(false, false)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            let expected = run(&plain, GRID, small).await.unwrap();
            assert!(!expected.is_empty(), "{name} writes nothing");
            let moved = expected.iter().any(|bytes| bytes.iter().any(|byte| *byte != 0));
            assert!(moved || name == "matmul" || name == "blur", "{name} leaves everything zero");
            let budgeted = compile(&wgsl, &entry, passes(true, false)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            if run(&budgeted, GRID, small).await.as_ref() != Ok(&expected) {
                wrong.push(format!("{name}/{entry} with budgets"));
            }
            for budget in [false, true] {
                let sliced =
                    compile(&wgsl, &entry, passes(budget, true)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
                for workgroups in [1, 2, 7, 16] {
                    sliced.cut_at(workgroups);
                    if run(&sliced, GRID, small).await.as_ref() != Ok(&expected) {
                        wrong.push(format!("{name}/{entry} cut at {workgroups}, budgets: {budget}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(kernels >= 75, "{kernels} kernels");
}

/// The same for random shaders: `GANNET_SHADERS` of them, with seeds from `GANNET_SHADERS_SEED`.
#[tokio::test]
async fn random_kernels_compute_the_same_to_the_bit() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let (count, first) = (number("GANNET_SHADERS", 40), number("GANNET_SHADERS_SEED", 1));
    let mut exhausted = 0;
    for seed in first..first + count {
        let wgsl = shaders::shader(seed);
        let bad = |what: &str, error: &Error| format!("seed {seed} {what}: {error}\n{wgsl}");
        let plain =
            compile(&wgsl, "main", passes(false, false)).await.unwrap_or_else(|e| panic!("{}", bad("plain", &e)));
        let expected = run(&plain, GRID, false).await.unwrap_or_else(|e| panic!("{}", bad("plain", &e)));
        let budgeted =
            compile(&wgsl, "main", passes(true, false)).await.unwrap_or_else(|e| panic!("{}", bad("budgeted", &e)));
        match run(&budgeted, GRID, false).await {
            Ok(found) => assert!(found == expected, "seed {seed} with budgets\n{wgsl}"),
            // Its loops make more iterations than they seem to. The driver would silently cut them.
            Err(Error::BudgetExhausted(_)) => {
                exhausted += 1;
                continue;
            }
            Err(error) => panic!("{}", bad("budgeted", &error)),
        }
        for (budget, sizes) in [(false, [1, 7]), (true, [2, 16])] {
            let sliced =
                compile(&wgsl, "main", passes(budget, true)).await.unwrap_or_else(|e| panic!("{}", bad("sliced", &e)));
            for workgroups in sizes {
                sliced.cut_at(workgroups);
                let found = run(&sliced, GRID, false).await.unwrap_or_else(|e| panic!("{}", bad("sliced", &e)));
                assert!(found == expected, "seed {seed} cut at {workgroups}, budgets: {budget}\n{wgsl}");
            }
        }
    }
    println!("{count} random shaders, {exhausted} out of budget");
    assert!(exhausted * 10 <= count, "{exhausted} of {count} ran out of budget");
}

/// Each kernel has an endless loop. The budget ends it, the error says so, and the device works afterwards.
#[tokio::test]
async fn what_does_not_end_by_itself_ends_by_its_budget() {
    let head = "@group(0) @binding(0) var<storage, read_write> output: array<atomic<u32>>;\n\
                var<workgroup> shared_value: atomic<u32>;\n";
    let body = |text: &str| {
        format!("{head}@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {{ {text} }}")
    };
    let mut endless = vec![
        ("all lanes", body("loop { atomicAdd(&output[lane], 1u); }")),
        ("one lane", body("if lane == 7u { loop { atomicAdd(&output[0], 1u); } }")),
        ("nothing inside", body("loop { } atomicAdd(&output[0], 1u);")),
        ("a condition that stays", body("var i = 0u; while i < 10u { atomicAdd(&output[lane], i); }")),
        ("a step of zero", body("for (var i = 0u; i < 10u; i += 0u) { atomicAdd(&output[lane], i); }")),
        ("a step that is undone", body("for (var i = 0u; i < 10u; i++) { atomicAdd(&output[lane], 1u); i -= 1u; }")),
        ("a step that wraps", body("for (var i = 0u; i <= 4294967295u; i++) { atomicAdd(&output[lane], 1u); }")),
        ("a step away", body("for (var i = 5; i > 0; i++) { atomicAdd(&output[lane], 1u); }")),
        ("a stale condition", body("var i = 0u; let go = i < 5u; while go { i++; atomicAdd(&output[lane], 1u); }")),
        ("nested", body("loop { for (var i = 0u; i < 100u; i++) { atomicAdd(&output[lane], 1u); } }")),
        (
            "many times many",
            body(
                "for (var i = 0u; i < 4000000000u; i++) { for (var j = 0u; j < 4000000000u; j++) { atomicAdd(&output[lane], 1u); } }",
            ),
        ),
        (
            "continuing",
            body("var i = 0u; loop { if i > 5u { break; } continuing { loop { atomicAdd(&output[lane], 1u); } } }"),
        ),
        ("break if never", body("loop { atomicAdd(&output[lane], 1u); continuing { break if lane > 100u; } }")),
        (
            "switch",
            body(
                "loop { switch lane % 2u { case 0u: { continue; } default: { atomicAdd(&output[lane], 1u); break; } } }",
            ),
        ),
        ("around a barrier", body("loop { atomicAdd(&output[lane], 1u); workgroupBarrier(); }")),
        ("around a uniform load", body("loop { if workgroupUniformLoad(&shared_value) > 0u { break; } }")),
        ("a lock nobody frees", body("loop { if atomicCompareExchangeWeak(&output[0], 5u, 6u).exchanged { break; } }")),
        (
            "a grid-wide barrier",
            body("atomicAdd(&output[0], 1u); loop { if atomicLoad(&output[0]) > 1000000u { break; } }"),
        ),
    ];
    let callee = format!(
        "{head}fn inner(lane: u32) {{ loop {{ atomicAdd(&output[lane], 1u); }} }}\n\
         fn outer(lane: u32) {{ inner(lane); inner(lane); }}\n\
         @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {{ outer(lane); outer(lane); }}"
    );
    endless.push(("a callee", callee));
    for (what, wgsl) in endless {
        let session = session();
        let compiled = session.compile_kernel(&wgsl, "main", &[]).run().await;
        let kernel = compiled.unwrap_or_else(|error| panic!("{what}: {error}"));
        let before = device().counters().gpu_ns.load(std::sync::atomic::Ordering::Relaxed);
        let ended = run(&kernel, [3, 2, 1], false).await;
        let took = device().counters().gpu_ns.load(std::sync::atomic::Ordering::Relaxed) - before;
        println!("{what}: {} us of gpu time", took / 1000);
        match ended {
            Err(Error::BudgetExhausted(text)) => assert!(text.contains("budget"), "{text}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let wgsl = "@group(0) @binding(0) var<storage, read_write> output: array<u32>;
        @compute @workgroup_size(1) fn main() { for (var i = 0u; i < arrayLength(&output); i++) { output[i] = i; } }";
    let kernel = session().compile_kernel(wgsl, "main", &[]).run().await.unwrap();
    let output = run(&kernel, [1, 1, 1], false).await.unwrap();
    assert_eq!(output[0][4 * 1000..4 * 1001], 1000u32.to_le_bytes());
}

/// A loop that is charged ahead makes exactly the computed number of trips, also at the ends of the value range, or
/// runs out of budget.
#[tokio::test]
async fn loops_charged_ahead_make_the_same_trips() {
    let unsigned = [0, 1, 2, 7, 100, u32::MAX - 100, u32::MAX - 7, u32::MAX - 6, u32::MAX - 1, u32::MAX];
    let signed =
        [i32::MIN, i32::MIN + 1, i32::MIN + 6, -100, -7, -1, 0, 1, 7, 100, i32::MAX - 6, i32::MAX - 1, i32::MAX];
    let mut kernels = 0;
    for (ty, values) in [("u32", unsigned.map(i64::from).to_vec()), ("i32", signed.map(i64::from).to_vec())] {
        for (op, step) in [("<", 1), ("<", 3), ("<=", 1), ("<=", 7), (">", 1), (">", 3), (">=", 1), (">=", 7)] {
            let up = op.starts_with('<');
            let change = if up { "+=" } else { "-=" };
            let wgsl = format!(
                "@group(0) @binding(0) var<storage, read> ends: array<vec2<{ty}>>;
                @group(0) @binding(1) var<storage, read_write> trips: array<u32>;
                @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) {{
                    let bound = ends[id.x].y;
                    for (var i = ends[id.x].x; i {op} bound; i {change} {step}) {{ trips[id.x]++; }}
                }}"
            );
            let kernel = session().compile_kernel(&wgsl, "main", &[]).run().await.unwrap();
            kernels += 1;
            let (least, most) =
                if ty == "u32" { (0, i64::from(u32::MAX)) } else { (i64::from(i32::MIN), i64::from(i32::MAX)) };
            let (mut ending, mut endless) = (Vec::new(), Vec::new());
            for start in &values {
                for bound in &values {
                    let (mut i, mut count) = (*start, 0u32);
                    let runs = |i: i64| match op {
                        "<" => i < *bound,
                        "<=" => i <= *bound,
                        ">" => i > *bound,
                        _ => i >= *bound,
                    };
                    while count < 70_000 && (least..=most).contains(&i) && runs(i) {
                        i += if up { step } else { -step };
                        count += 1;
                    }
                    if count < 70_000 && (least..=most).contains(&i) {
                        ending.push((*start, *bound, count));
                    } else {
                        endless.push((*start, *bound, 0));
                    }
                }
            }
            let trips = trips_of(&kernel, &ending).await.unwrap();
            for ((start, bound, expected), got) in ending.iter().zip(trips) {
                assert_eq!(got, *expected, "{ty} from {start} {op} {bound} by {step}");
            }
            for pair in endless.chunks(1).step_by(5) {
                let ended = trips_of(&kernel, pair).await;
                assert!(matches!(ended, Err(Error::BudgetExhausted(_))), "{ty} {pair:?} {op} by {step}: {ended:?}");
            }
        }
    }
    assert_eq!(kernels, 16);
}

async fn trips_of(kernel: &Arc<Kernel>, ends: &[(i64, i64, u32)]) -> Result<Vec<u32>, Error> {
    let mut session = session();
    #[allow(clippy::cast_possible_truncation, reason = "the low 32 bits are meant")]
    let words: Vec<u8> = ends.iter().flat_map(|(a, b, _)| [*a as i32, *b as i32]).flat_map(i32::to_le_bytes).collect();
    let count = u32::try_from(ends.len()).unwrap();
    let buffers = [session.create_buffer(words.len() as u64)?, session.create_buffer(u64::from(count) * 4)?];
    session.write_buffer(&buffers[0], 0, words)?;
    let bindings = (0u32..).zip(&buffers).map(|(index, buffer)| Binding {
        group: 0,
        index,
        source: BindingSource::Buffer(Arc::clone(buffer), 0, None),
    });
    let mut batch = Batch::default();
    batch.dispatch(&session, kernel, bindings.collect(), [count, 1, 1])?;
    batch.read(&buffers[1], 0, u64::from(count) * 4)?;
    let mut submission = batch.encode(&mut session)?.submit().await?;
    submission.wait().await?;
    let reads = submission.take_reads().await;
    Ok(reads[0].chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect())
}

/// Nests of loops near the number of iterations after which the software driver ends loops without an error: each gives
/// the right result, or its budget runs out. `GANNET_NESTS` of them, with seeds from `GANNET_NESTS_SEED`.
#[tokio::test]
async fn loops_count_right_or_run_out_of_budget() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let (count, first) = (number("GANNET_NESTS", 60), number("GANNET_NESTS_SEED", 1));
    let (mut right, mut long, mut exhausted) = (0, 0, 0);
    for seed in first..first + count {
        let nest = loop_nests::nest(seed);
        let wgsl = nest.wgsl();
        let kernel = match compile(&wgsl, "main", passes(true, true)).await {
            Ok(kernel) => kernel,
            Err(error) => panic!("seed {seed}: {error}\n{wgsl}"),
        };
        match (counted_by(&kernel, &nest.bounds).await, nest.counted()) {
            (Ok(found), Some(expected)) => {
                assert_eq!(found[..expected.len()], expected, "seed {seed} {:?}\n{wgsl}", nest.bounds);
                right += 1;
                long += u32::from(expected.iter().any(|count| *count > 5000));
            }
            (Ok(_), None) => panic!("seed {seed}: more iterations than can be\n{:?}\n{wgsl}", nest.bounds),
            (Err(Error::BudgetExhausted(_)), expected) => {
                let most = expected.and_then(|counts| counts.into_iter().max()).unwrap_or(u32::MAX);
                assert!(nest.bounds.iter().any(|bound| *bound >= 40) || most > 100, "seed {seed}: {most}\n{wgsl}");
                exhausted += 1;
            }
            (Err(error), _) => panic!("seed {seed}: {error}\n{wgsl}"),
        }
    }
    println!("{count} nests: {right} right, {long} of them long, {exhausted} out of budget");
    assert!(right * 4 > count && exhausted * 10 > count && long > 0, "{right}, {exhausted} and {long} of {count}");
}

/// Real kernels make some 100,000 iterations. The software driver ends loops after 65,535 of its own.
#[tokio::test]
async fn a_hundred_thousand_iterations_are_possible_and_an_endless_loop_is_not() {
    let head = "@group(0) @binding(0) var<storage, read> bounds: array<u32>;
        @group(0) @binding(1) var<storage, read_write> counted: array<u32>;
        @compute @workgroup_size(16) fn main(@builtin(local_invocation_index) lane: u32) { var n = 0u;";
    for (body, expected) in [
        ("for (var i = 0u; i < bounds[0]; i++) { for (var j = 0u; j < bounds[5]; j++) { n++; } }", Some(40_000)),
        ("for (var i = 0u; i < bounds[0]; i++) { for (var j = 0u; j < bounds[1]; j++) { n++; } }", Some(60_000)),
        ("for (var i = 0u; i < bounds[2]; i++) { n++; }", Some(200_000)),
        ("for (var i = lane; i < bounds[2] + lane; i++) { n++; }", Some(200_000)),
        ("var i = 0u; while i < bounds[2] { n++; if n == 150000u { break; } i++; }", Some(150_000)),
        ("for (var i = 0u; i < bounds[3]; i++) { for (var j = 0u; j < bounds[3]; j++) { n++; } }", Some(160_000)),
        ("for (var i = 0u; i < bounds[2]; i++) { for (var j = 0u; j < bounds[2]; j++) { n++; } }", None),
        ("for (var i = 0u; i < 1u; i += bounds[4]) { n++; }", None),
        ("loop { if bounds[4] == 1u { break; } n++; }", None),
    ] {
        let kernel =
            compile(&format!("{head} {body} counted[lane] = n; }}"), "main", passes(true, true)).await.unwrap();
        match (counted_by(&kernel, &[20_000, 3, 200_000, 400, 0, 2]).await, expected) {
            (Ok(found), Some(expected)) => assert_eq!(found, [expected; 16], "{body}"),
            (Err(Error::BudgetExhausted(_)), None) => {}
            (found, _) => panic!("{found:?} {body}"),
        }
    }
}

/// The software driver also runs the invocations that a workgroup lacks for a multiple of eight. They read zeros, so a
/// loop may end only for the others.
#[tokio::test]
async fn invocations_that_do_not_exist_use_no_budget() {
    for size in ["1", "3", "5", "8", "12", "4, 3"] {
        let wgsl = format!(
            "@group(0) @binding(0) var<storage, read> bounds: array<u32>;
            @group(0) @binding(1) var<storage, read_write> counted: array<u32>;
            @compute @workgroup_size({size}) fn main(@builtin(local_invocation_index) lane: u32) {{
                var i = 0u; var n = 0u;
                loop {{ if i >= 100u {{ break; }} i += bounds[0]; }}
                loop {{ if n >= bounds[1] {{ break; }} n++; }}
                counted[lane] = n;
            }}"
        );
        let kernel = compile(&wgsl, "main", passes(true, true)).await.unwrap();
        let counted = counted_by(&kernel, &[1, 20_000]).await.unwrap();
        let there = counted.iter().filter(|count| **count > 0).count();
        let expected = size.split(", ").map(|number| number.parse::<usize>().unwrap()).product::<usize>();
        assert_eq!(there, expected, "{size}: {counted:?}");
        assert!(counted[..there].iter().all(|count| *count == 20_000), "{size}: {counted:?}");
    }
}

/// Runs a kernel of [`loop_nests`].
async fn counted_by(kernel: &Arc<Kernel>, bounds: &[u32]) -> Result<Vec<u32>, Error> {
    let mut session = session();
    let words: Vec<u8> = bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect();
    let size = u64::from(loop_nests::LANES) * 4;
    let buffers = [session.create_buffer(words.len() as u64)?, session.create_buffer(size)?];
    session.write_buffer(&buffers[0], 0, words)?;
    let bindings = kernel.variables.iter().map(|variable| Binding {
        group: variable.group,
        index: variable.index,
        source: BindingSource::Buffer(Arc::clone(&buffers[variable.index as usize]), 0, None),
    });
    let mut batch = Batch::default();
    batch.dispatch(&session, kernel, bindings.collect(), [1, 1, 1])?;
    batch.read(&buffers[1], 0, size)?;
    let mut submission = batch.encode(&mut session)?.submit().await?;
    submission.wait().await?;
    let reads = submission.take_reads().await;
    Ok(reads[0].chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect())
}
