//! Tries a GPU: opens it, runs a kernel, looks at what it wrote. Not safe to call where a hang would matter.

use crate::session::SessionLimits;
use crate::{Batch, Binding, Buffer, Catalog, Device, Error, Session, Source};
use std::sync::Arc;

/// Its workgroup memory, a barrier and a loop use what kernels use.
pub(crate) const WGSL: &str = "
@group(0) @binding(0) var<storage, read_write> data: array<u32, 256>;
var<workgroup> shared_data: array<u32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    shared_data[local] = id.x;
    workgroupBarrier();
    var sum = 0u;
    for (var i = 0u; i < 64u; i++) { sum += shared_data[i]; }
    data[id.x] = sum + id.x;
}";

/// Opens the adapter at `index` and runs a small kernel on it.
pub async fn probe(index: u32) -> Result<(), Error> {
    let device = Device::open(index, 1 << 20)?;
    let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: u64::MAX };
    let mut session = Session::new(device, Arc::new(Catalog::new()), limits);
    let kernel = session.compile_kernel(WGSL, "main", &[]).run().await?;
    let data = Buffer::create(&session, 1024)?;
    let mut batch = Batch::default();
    let binding = Binding { group: 0, index: 0, source: Source::Buffer(Arc::clone(&data), 0, None) };
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
