//! Assets on a real device, mapped (if it computes in the host's memory) and copied.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

use gannet_host_gpu::device::DeviceOptions;
use gannet_host_gpu::{
    Asset, AssetCatalog, AssetFile, Batch, Binding, BindingSource, Device, Error, KernelCatalog, Session, SessionLimits,
};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

const SUM: &str = "@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read_write> sum: atomic<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var all = 0u;
    for (var i = id.x; i < arrayLength(&table); i += 1024u) { all += table[i]; }
    atomicAdd(&sum, all);
}";

/// Like [`SUM`], for the first 64 bytes, from a uniform variable.
const SUM_OF_UNIFORM: &str = "@group(0) @binding(0) var<uniform> table: array<vec4<u32>, 4>;
@group(0) @binding(1) var<storage, read_write> sum: u32;
@compute @workgroup_size(1) fn main() {
    let all = table[0] + table[1] + table[2] + table[3];
    sum = all.x + all.y + all.z + all.w;
}";

/// Keeps devices open until the process ends, as a worker does. When the last device is dropped, its driver is
/// unloaded, and the driver's exit handlers may be running then.
static OPEN: Mutex<Vec<Arc<Device>>> = Mutex::new(Vec::new());

fn device(map_assets: bool) -> Arc<Device> {
    let gpus = gannet_host_gpu::discover();
    let index = gannet_host_gpu::adapter::preferred(&gpus).unwrap().index;
    let opening = DeviceOptions { index, class: None, memory_max: 1 << 30, map_assets };
    let device = Device::open_shared(opening, None).unwrap();
    OPEN.lock().unwrap().push(Arc::clone(&device));
    device
}

/// Makes bytes, and a named file with them.
fn bytes(length: u32) -> (Vec<u8>, tempfile::NamedTempFile) {
    let bytes: Vec<u8> = (0..length).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    (bytes, file)
}

fn catalog(file: File, size: u64) -> AssetCatalog {
    [("table".to_owned(), AssetFile::new(file, size, "0".repeat(64)))].into()
}

/// Returns the sum of a range that the kernel computed, and the expected sum. Bytes after the last one count as zeros.
async fn sums(
    kernel: &str,
    session: &mut Session,
    assets: &AssetCatalog,
    whole: &[u8],
    (from, to): (usize, usize),
) -> (u32, u32) {
    let view =
        session.view_asset(&Asset::open(assets, "table").unwrap(), from as u64, (to - from) as u64).await.unwrap();
    let kernel = session.compile_kernel(kernel, "main", &[]).run().await.unwrap();
    let sum = session.create_buffer(4).unwrap();
    let mut batch = Batch::default();
    let bindings = vec![
        Binding { group: 0, index: 0, source: BindingSource::Asset(view) },
        Binding { group: 0, index: 1, source: BindingSource::Buffer(Arc::clone(&sum), 0, None) },
    ];
    batch.dispatch(session, &kernel, bindings, [16, 1, 1]).unwrap();
    batch.read(&sum, 0, 4).unwrap();
    let mut submission = batch.encode(session).unwrap().submit().await.unwrap();
    submission.wait().await.unwrap();
    let found = submission.take_reads().await.pop().unwrap();
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u32::from_le_bytes(word)
    };
    (word(&found), whole[from..to].chunks(4).map(word).fold(0, u32::wrapping_add))
}

fn session(device: &Arc<Device>) -> Session {
    let limits = SessionLimits { memory_bytes: 1 << 28, gpu_ns: 60_000_000_000, loop_work: gannet_host_gpu::LOOP_WORK };
    Session::new(Arc::clone(device), Arc::new(KernelCatalog::new()), limits)
}

#[tokio::test]
async fn kernels_find_the_bytes_of_the_file_mapped_or_copied() {
    // More than two chunks of a copy, and a multiple of neither words nor pages.
    let (whole, file) = bytes((9 << 20) + 4099);
    let path = file.path().display().to_string();
    let is_mapped = || std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains(&path));
    for map_assets in [true, false] {
        let device = device(map_assets);
        let assets = catalog(file.reopen().unwrap(), whole.len() as u64);
        let mut own = session(&device);
        for range in [(0, whole.len()), (4096, 8192), (1, 5_000_001), (8 << 20, whole.len())] {
            let (found, expected) = sums(SUM, &mut own, &assets, &whole, range).await;
            assert_eq!(found, expected, "{range:?}");
        }
        let (found, expected) = sums(SUM_OF_UNIFORM, &mut own, &assets, &whole, (256, 320)).await;
        assert_eq!(found, expected, "a uniform");
        assert_eq!(is_mapped(), map_assets && device.gpu().name.contains("llvmpipe"));
        assert_eq!(device.resident_assets().bytes, whole.len().next_multiple_of(4) as u64);
        drop(own);
        device.forget_assets(|_| false);
        assert_eq!((is_mapped(), device.memory().used()), (false, 0));
    }
}

/// An asset's file is never truncated. If it were, that must fail the request and not kill the process.
#[tokio::test]
async fn a_file_that_is_too_short_is_an_error() {
    let (whole, file) = bytes(10_000);
    for map_assets in [true, false] {
        let device = device(map_assets);
        let assets = catalog(file.reopen().unwrap(), whole.len() as u64 + 1);
        let viewed = session(&device).view_asset(&Asset::open(&assets, "table").unwrap(), 0, 4096).await;
        assert!(matches!(viewed, Err(Error::NotFound(_))), "{viewed:?}");
        assert_eq!((device.resident_assets().count, device.memory().used()), (0, 0));
    }
}
