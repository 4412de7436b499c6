//! Probes a GPU: opens it, runs a kernel and checks its output. Call it in a process that may hang or crash.

use crate::batch::{Batch, Binding, BindingSource};
use crate::compiler::SAMPLE_WGSL;
use crate::device::Device;
use crate::error::Error;
use crate::kernel::KernelCatalog;
use crate::session::{Session, SessionLimits};
use std::sync::Arc;

/// Opens the adapter at `index` and runs a small kernel on it. Fails if the GPU fails or computes wrong results.
pub async fn probe(index: u32) -> Result<(), Error> {
    let device = Device::open(index, 1 << 20)?;
    let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: u64::MAX, loop_work: crate::kernel::LOOP_WORK };
    let mut session = Session::new(device, Arc::new(KernelCatalog::new()), limits);
    let kernel = session.compile_kernel(SAMPLE_WGSL, "main", &[]).run().await?;
    let data = session.create_buffer(1024)?;
    let mut batch = Batch::default();
    let binding = Binding { group: 0, index: 0, source: BindingSource::Buffer(Arc::clone(&data), 0, None) };
    batch.dispatch(&session, &kernel, vec![binding], [4, 1, 1])?;
    batch.read(&data, 0, 1024)?;
    let mut submission = batch.encode(&mut session)?.submit().await?;
    submission.wait().await?;
    let read = submission.take_reads().await;
    let words = read.iter().flatten().copied().collect::<Vec<u8>>();
    let sound = words.as_chunks::<4>().0.iter().zip(0u32..).all(|(word, at)| {
        let first = at / 64 * 64;
        u32::from_le_bytes(*word) == (first..first + 64).sum::<u32>() + at
    });
    if sound && words.len() == 1024 { Ok(()) } else { Err(Error::Unsupported("the gpu computes wrong results".into())) }
}
