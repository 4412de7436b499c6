//! Measures the cost of hardening: runs kernels plain, with budgets, sliceable, and with both, in turns, and prints the
//! median GPU time of each variant in nanoseconds. Usage: `hardening_cost [ROUNDS]`.
#![expect(clippy::print_stdout, reason = "a program for measuring")]

use gannet_host_gpu::harden::Passes;
use gannet_host_gpu::{Batch, Binding, BindingSource, Device, Error, Kernel, KernelCatalog, Session, SessionLimits};
use std::sync::Arc;

const MATMUL: &str = include_str!("../../functions/matmul/src/matmul.wgsl");
const BLUR: &str = include_str!("../../functions/blur/src/blur.wgsl");
const REDUCE: &str = include_str!("../tests/corpus/reduce_tree.wgsl");

struct Case {
    name: &'static str,
    wgsl: &'static str,
    entry: &'static str,
    /// Size in bytes and first words of each variable's buffer.
    data: Vec<(usize, Vec<u32>)>,
    grid: [u32; 3],
}

fn cases() -> Vec<Case> {
    let (side, pixels) = (512 * 512 * 4, 512 * 512 * 4);
    let size = vec![512, 512, 512, 0];
    vec![
        Case {
            name: "matmul",
            wgsl: MATMUL,
            entry: "main",
            data: vec![(side, vec![]), (side, vec![]), (side, vec![]), (16, size)],
            grid: [32, 32, 1],
        },
        Case {
            name: "blur",
            wgsl: BLUR,
            entry: "horizontal",
            data: vec![(pixels, vec![]), (pixels, vec![]), (16, vec![512, 512, 12, 6.0f32.to_bits()])],
            grid: [64, 64, 1],
        },
        Case {
            name: "reduction",
            wgsl: REDUCE,
            entry: "main",
            data: vec![(1 << 20, vec![]), (1 << 20, vec![])],
            grid: [4096, 1, 1],
        },
    ]
}

async fn time(device: &Arc<Device>, kernel: &Arc<Kernel>, case: &Case) -> Result<u64, Error> {
    let limits = SessionLimits { memory_bytes: 1 << 30, gpu_ns: u64::MAX, loop_work: gannet_host_gpu::LOOP_WORK };
    let mut session = Session::new(Arc::clone(device), Arc::new(KernelCatalog::new()), limits);
    let mut batch = Batch::default();
    let mut bindings = Vec::new();
    for (variable, (bytes, words)) in kernel.variables.iter().zip(&case.data) {
        let buffer = session.create_buffer(*bytes as u64)?;
        session.write_buffer(&buffer, 0, bytemuck::cast_slice(words).to_vec())?;
        let source = BindingSource::Buffer(buffer, 0, None);
        bindings.push(Binding { group: variable.group, index: variable.index, source });
    }
    // The first submission fills the buffers, so only the second is measured.
    batch.dispatch(&session, kernel, bindings, case.grid)?;
    batch.encode(&mut session)?.submit().await?.wait().await?;
    Ok(batch.encode(&mut session)?.submit().await?.wait().await?.gpu_ns)
}

fn main() -> Result<(), Error> {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(9);
    let gpus = gannet_host_gpu::discover();
    let device = Device::open(gannet_host_gpu::adapter::preferred(&gpus)?.index, 1 << 31)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().map_err(|e| Error::Unsupported(e.to_string()))?;
    let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: u64::MAX, loop_work: gannet_host_gpu::LOOP_WORK };
    let session = Session::new(Arc::clone(&device), Arc::new(KernelCatalog::new()), limits);
    for case in cases() {
        let mut variants = Vec::new();
        for (budget, sliceable) in [(false, false), (true, false), (false, true), (true, true)] {
            let passes = Passes { budget, sliceable, ..Passes::all(device.abilities().unit) };
            let kernel = device.kernel_with(case.wgsl, case.entry, &[], &session.payer(), passes)?;
            variants.push((kernel, Vec::new()));
        }
        for _ in 0..rounds {
            for (kernel, times) in &mut variants {
                times.push(runtime.block_on(time(&device, kernel, &case))?);
            }
        }
        let medians = variants.iter_mut().map(|(_, times)| {
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or_default().to_string()
        });
        println!("{} {}", case.name, medians.collect::<Vec<_>>().join(" "));
    }
    // Dropping the device would wait for the GPU without a limit, and drivers' exit handlers have crashed.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    Ok(())
}
