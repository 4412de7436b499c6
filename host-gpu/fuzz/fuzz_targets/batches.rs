//! Fuzzes bindings and batches with the calls of a hostile guest, on a device that runs no shader. Every call must
//! succeed or return an error, and in the end every charged byte must have been returned.
#![no_main]

use arbitrary::Arbitrary;
use gannet_host_gpu::{Batch, Binding, BindingSource, Buffer, Device, Kernel, KernelCatalog, Session, SessionLimits};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, OnceLock};

const MEMORY_MAX: u64 = 1 << 20;
const KERNELS: [&str; 3] = [
    "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
     @compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3<u32>) { a[id.x] = id.y; }",
    "@group(0) @binding(0) var<uniform> u: vec4<u32>; @group(1) @binding(3) var<storage, read> b: array<vec4<f32>, 4>;
     @group(1) @binding(4) var<storage, read_write> c: array<vec4<f32>>;
     @compute @workgroup_size(4, 4) fn main() { c[u.x] = b[u.y % 4u]; }",
    "@compute @workgroup_size(1) fn main() {}",
];

/// One call of a guest.
#[derive(Debug, Arbitrary)]
enum Call {
    Create(u64),
    Drop(u8),
    Write(u8, u64, u8),
    Dispatch(u8, Vec<(u8, u8, Resource)>, [u32; 3]),
    Copy(u8, u64, u8, u64, u64),
    Clear(u8, u64, u64),
    RecordWrite(u8, u64, u8),
    Read(u8, u64, u64),
    NewBatch,
    Submit,
}

#[derive(Debug, Arbitrary)]
enum Resource {
    Buffer(u8, u64, Option<u64>),
    Inline(u16),
}

fn device() -> &'static (Arc<Device>, Vec<Arc<Kernel>>) {
    static DEVICE: OnceLock<(Arc<Device>, Vec<Arc<Kernel>>)> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let device = Device::noop(64 << 20);
        let limits = SessionLimits { memory_bytes: MEMORY_MAX, gpu_ns: u64::MAX, loop_work: gannet_host_gpu::LOOP_WORK };
        // The session must live until the kernels are compiled: dropping it would cancel their trial dispatches.
        let session = Session::new(Arc::clone(&device), Arc::new(KernelCatalog::new()), limits);
        let payer = session.payer();
        let kernels = KERNELS.iter().map(|wgsl| device.kernel(wgsl, "main", &[], &payer).unwrap()).collect();
        (device, kernels)
    })
}

fuzz_target!(|calls: Vec<Call>| {
    let (device, kernels) = device();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let limits = SessionLimits { memory_bytes: MEMORY_MAX, gpu_ns: u64::MAX, loop_work: gannet_host_gpu::LOOP_WORK };
    let mut session = Session::new(Arc::clone(device), Arc::new(KernelCatalog::new()), limits);
    let memory = Arc::clone(session.memory());
    let drainer = session.drainer();
    let mut buffers: Vec<Arc<Buffer>> = Vec::new();
    let mut batch = Batch::default();
    for call in calls.into_iter().take(64) {
        let buffer = |at: u8| buffers.get(usize::from(at) % buffers.len().max(1)).cloned();
        match call {
            Call::Create(size) => buffers.extend(session.create_buffer(size).ok()),
            Call::Drop(at) if !buffers.is_empty() => drop(buffers.remove(usize::from(at) % buffers.len())),
            Call::Drop(_) => {}
            Call::Write(at, offset, size) => {
                if let Some(buffer) = buffer(at) {
                    let _ = session.write_buffer(&buffer, offset, vec![1; usize::from(size)]);
                }
            }
            Call::Dispatch(kernel, resources, grid) => {
                let bindings = resources.into_iter().take(8).filter_map(|(group, index, resource)| {
                    let source = match resource {
                        Resource::Buffer(at, offset, size) => BindingSource::Buffer(buffer(at)?, offset, size),
                        Resource::Inline(size) => BindingSource::Inline(vec![2; usize::from(size)]),
                    };
                    Some(Binding { group: group.into(), index: index.into(), source })
                });
                let kernel = &kernels[usize::from(kernel) % kernels.len()];
                let _ = batch.dispatch(&session, kernel, bindings.collect(), grid);
            }
            Call::Copy(from, from_offset, to, to_offset, size) => {
                if let (Some(from), Some(to)) = (buffer(from), buffer(to)) {
                    let _ = batch.copy(&from, from_offset, &to, to_offset, size);
                }
            }
            Call::Clear(at, offset, size) => {
                if let Some(buffer) = buffer(at) {
                    let _ = batch.clear(&buffer, offset, size);
                }
            }
            Call::RecordWrite(at, offset, size) => {
                if let Some(buffer) = buffer(at) {
                    let _ = batch.write(&session, &buffer, offset, vec![3; usize::from(size)]);
                }
            }
            Call::Read(at, offset, size) => {
                if let Some(buffer) = buffer(at) {
                    let _ = batch.read(&buffer, offset, size);
                }
            }
            Call::NewBatch => batch = Batch::default(),
            Call::Submit => runtime.block_on(async {
                let Ok(encoded) = batch.encode(&mut session) else { return };
                if let Ok(mut submission) = encoded.submit().await {
                    let _ = submission.wait().await;
                    submission.take_reads().await;
                }
            }),
        }
        assert!(memory.used() <= MEMORY_MAX);
    }
    drop((batch, buffers, session));
    runtime.block_on(drainer.drain());
    assert_eq!(memory.used(), 0, "all charges must have been returned");
});
