//! Runs one kernel with no server: `cargo run --release -p gannet-host-gpu --example double`.
#![expect(clippy::print_stdout, reason = "an example program")]

use gannet_host_gpu::{
    Batch, Binding, BindingSource, Device, KernelCatalog, Session, SessionLimits, adapter, discover,
};
use std::sync::Arc;

const WGSL: &str = "
@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&values) { values[id.x] *= 2u; }
}";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), gannet_host_gpu::Error> {
    let gpus = discover();
    let gpu = adapter::preferred(&gpus)?;
    println!("{} ({}, {})", gpu.name, gpu.backend, gpu.driver);
    let device = Device::open(gpu.index, 1 << 30)?;
    let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: 1_000_000_000, loop_work: gannet_host_gpu::LOOP_WORK };
    let mut session = Session::new(device, Arc::new(KernelCatalog::new()), limits);

    let kernel = session.compile_kernel(WGSL, "main", &[]).run().await?;
    let numbers: Vec<u32> = (0..256).collect();
    let buffer = session.create_buffer(1024)?;
    session.write_buffer(&buffer, 0, bytemuck::cast_slice(&numbers).to_vec())?;

    let mut batch = Batch::default();
    let binding = Binding { group: 0, index: 0, source: BindingSource::Buffer(Arc::clone(&buffer), 0, None) };
    batch.dispatch(&session, &kernel, vec![binding], [4, 1, 1])?;
    batch.read(&buffer, 0, 1024)?;
    for round in 1..=3 {
        let mut submission = batch.encode(&mut session)?.submit().await?;
        let receipt = submission.wait().await?;
        let reads = submission.take_reads().await;
        let doubled: Vec<u32> = reads.first().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).unwrap_or_default();
        assert_eq!(doubled.get(3), Some(&(3 << round)), "every value doubles in every round");
        println!(
            "round {round}: {:?} … in {} ns of GPU time ({:?} clock)",
            doubled.get(..5),
            receipt.gpu_ns,
            receipt.clock
        );
    }
    // Dropping the device would wait for the GPU without a limit, so the process just exits.
    std::process::exit(0);
}
