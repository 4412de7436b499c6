//! Tests of quotas, validation and ordering on a device that runs no shader. The results of shaders are tested through
//! the real binary.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use gannet_host_gpu::batch::Update;
use gannet_host_gpu::{
    ArbiterLink, Batch, Binding, BindingSource, Device, Error, KernelCatalog, Session, SessionLimits,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const COPY: &str = "
@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read_write> b: array<u32>;
@group(1) @binding(0) var<uniform> n: u32;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { b[id.x] = a[id.x] + n; }";

fn session(device: &Arc<Device>, memory_bytes: u64) -> Session {
    let limits = SessionLimits { memory_bytes, gpu_ns: 1_000_000_000, loop_work: gannet_host_gpu::LOOP_WORK };
    Session::new(Arc::clone(device), Arc::new(KernelCatalog::new()), limits)
}

fn bind(group: u32, index: u32, source: BindingSource) -> Binding {
    Binding { group, index, source }
}

#[tokio::test]
async fn a_batch_with_reads_is_one_round_trip() {
    let device = Device::noop(1 << 30);
    let mut session = session(&device, 1 << 20);
    let kernel = session.compile_kernel(COPY, "main", &[]).run().await.unwrap();
    let (a, b) = (session.create_buffer(256).unwrap(), session.create_buffer(256).unwrap());
    session.write_buffer(&a, 0, vec![1; 100]).unwrap();
    session.write_buffer(&a, 100, vec![2; 4]).unwrap();
    let mut batch = Batch::default();
    let bindings = vec![
        bind(0, 0, BindingSource::Buffer(Arc::clone(&a), 0, None)),
        bind(0, 1, BindingSource::Buffer(Arc::clone(&b), 0, None)),
        bind(1, 0, BindingSource::Inline(vec![0; 4])),
    ];
    let dispatch = batch.dispatch(&session, &kernel, bindings, [1, 1, 1]).unwrap();
    batch.read(&a, 0, 12).unwrap();
    batch.read(&b, 4, 8).unwrap();
    let before = device.counters().round_trips.load(Ordering::Relaxed);
    for round in 1..=3u64 {
        batch
            .update(&session, vec![Update::Inline(dispatch, 1, 0, vec![1; 4]), Update::Grid(dispatch, [2, 1, 1])])
            .unwrap();
        let mut submission = batch.encode(&mut session).unwrap().submit().await.unwrap();
        submission.wait().await.unwrap();
        assert_eq!(device.counters().round_trips.load(Ordering::Relaxed), before + round);
        let reads = submission.take_reads().await;
        assert_eq!(reads.iter().map(Vec::len).collect::<Vec<_>>(), [12, 8]);
        assert!(submission.take_reads().await.is_empty(), "reads are returned only once");
    }
}

#[tokio::test]
async fn everything_is_given_back_when_the_work_and_its_results_are_gone() {
    let device = Device::noop(1 << 30);
    let mut session = session(&device, 1 << 20);
    let buffer = session.create_buffer(64 * 1024).unwrap();
    let mut batch = Batch::default();
    batch.read(&buffer, 0, 64 * 1024).unwrap();
    let mut submission = batch.encode(&mut session).unwrap().submit().await.unwrap();
    submission.wait().await.unwrap();
    let held = session.memory().used();
    assert!(held >= 2 * 64 * 1024, "results are charged until they are taken: {held}");
    drop(submission.take_reads().await);
    assert!(session.memory().used() < held);
    drop((batch, submission));
    assert_eq!(session.memory().used(), 64 * 1024);
    drop(buffer);
    assert_eq!((session.memory().used(), device.memory().used()), (0, 0));
}

#[tokio::test]
async fn a_submission_that_is_refused_keeps_the_pending_writes() {
    let device = Device::noop(1 << 30);
    let mut session = session(&device, 40 * 1024);
    let buffer = session.create_buffer(16 * 1024).unwrap();
    session.write_buffer(&buffer, 0, vec![7; 16 * 1024]).unwrap();
    let mut batch = Batch::default();
    batch.read(&buffer, 0, 4).unwrap();
    let refused = batch.encode(&mut session).unwrap_err();
    assert_eq!(refused.code(), "gpu_memory_quota", "{refused}");
    // The write is still pending, and still charged.
    assert!(session.memory().used() >= 32 * 1024);
}

#[tokio::test]
async fn a_dispatch_is_checked_against_its_kernel() {
    let device = Device::noop(1 << 30);
    let session = session(&device, 1 << 20);
    let kernel = session.compile_kernel(COPY, "main", &[]).run().await.unwrap();
    let (a, b) = (session.create_buffer(256).unwrap(), session.create_buffer(256).unwrap());
    let source = || bind(0, 0, BindingSource::Buffer(Arc::clone(&a), 0, None));
    let target = || bind(0, 1, BindingSource::Buffer(Arc::clone(&b), 0, None));
    let inline = |size: usize| bind(1, 0, BindingSource::Inline(vec![0; size]));
    for (bindings, part) in [
        (vec![source(), target()], "variable \"n\" has no binding"),
        (vec![source(), target(), inline(4), inline(4)], "is bound twice"),
        (vec![source(), target(), inline(4), bind(2, 0, BindingSource::Inline(vec![0; 4]))], "uses no such variable"),
        (vec![source(), target(), inline(0)], "needs at least 4"),
        (vec![source(), target(), inline(3)], "a multiple of 4"),
        (vec![source(), target(), inline(8192)], "at most 4096"),
        (vec![source(), bind(0, 1, BindingSource::Inline(vec![0; 4])), inline(4)], "cannot be bound to inline bytes"),
        (vec![source(), bind(0, 1, BindingSource::Buffer(Arc::clone(&b), 4, None)), inline(4)], "is not a multiple of"),
        (vec![source(), bind(0, 1, BindingSource::Buffer(Arc::clone(&b), 256, Some(256))), inline(4)], "pass the end"),
        (vec![source(), bind(0, 1, BindingSource::Buffer(Arc::clone(&a), 0, None)), inline(4)], "is the same buffer"),
    ] {
        let refused = Batch::default().dispatch(&session, &kernel, bindings, [1, 1, 1]).unwrap_err();
        assert!(
            matches!(refused, Error::InvalidArgument(_)) && refused.to_string().contains(part),
            "{part}: {refused}"
        );
    }
    for (offset, size) in [(1, 4), (0, 3), (252, 8), (u64::MAX - 3, 4)] {
        assert!(Batch::default().read(&a, offset, size).is_err(), "{offset} {size}");
        assert!(Batch::default().clear(&a, offset, size).is_err(), "{offset} {size}");
        assert!(Batch::default().copy(&a, offset, &b, 0, size).is_err(), "{offset} {size}");
    }
}

#[tokio::test]
async fn used_up_gpu_time_refuses_more_work() {
    let device = Device::noop(1 << 30);
    let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: 0, loop_work: gannet_host_gpu::LOOP_WORK };
    let mut session = Session::new(device, Arc::new(KernelCatalog::new()), limits);
    let buffer = session.create_buffer(4).unwrap();
    let refused = Batch::encode_read(&mut session, &buffer, 0, 4).unwrap_err();
    assert!(matches!(refused, Error::DeadlineExceeded(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_sessions_share_a_device_without_losing_work() {
    let device = Device::noop(1 << 30);
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let device = Arc::clone(&device);
            tokio::spawn(async move {
                let mut session = session(&device, 1 << 20);
                let buffer = session.create_buffer(1024).unwrap();
                let mut batch = Batch::default();
                batch.write(&session, &buffer, 0, vec![3; 1024]).unwrap();
                batch.read(&buffer, 0, 1024).unwrap();
                for _ in 0..50 {
                    let mut submission = batch.encode(&mut session).unwrap().submit().await.unwrap();
                    assert_eq!(submission.take_reads().await.len(), 1);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!((device.counters().round_trips.load(Ordering::Relaxed), device.memory().used()), (32 * 50, 0));
}

/// A device whose arbiter is the test.
struct Shared {
    device: Arc<Device>,
    to_holder: tokio::sync::mpsc::Sender<ArbiterMessage>,
    from_holder: std::sync::mpsc::Receiver<HolderMessage>,
    lost: Arc<AtomicBool>,
}

impl Shared {
    fn new() -> Self {
        let (to_holder, messages) = tokio::sync::mpsc::channel(8);
        let (sender, from_holder) = std::sync::mpsc::channel();
        let lost = Arc::<AtomicBool>::default();
        let flag = Arc::clone(&lost);
        let link = ArbiterLink {
            messages,
            send: Box::new(move |message| sender.send(message).unwrap()),
            on_loss: Arc::new(move || flag.store(true, Ordering::Relaxed)),
            notes: None,
        };
        Self { device: Device::noop_shared(1 << 20, Some(link)), to_holder, from_holder, lost }
    }

    /// Waits for the GPU thread's next message. It blocks the test's thread, on which nothing else has to run
    /// meanwhile.
    fn next(&self) -> HolderMessage {
        self.from_holder.recv_timeout(std::time::Duration::from_secs(10)).unwrap()
    }

    async fn submit(&self) -> (Session, gannet_host_gpu::Submission) {
        let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: u64::MAX, loop_work: gannet_host_gpu::LOOP_WORK };
        let mut session = Session::new(Arc::clone(&self.device), Arc::new(KernelCatalog::new()), limits);
        let buffer = session.create_buffer(1024).unwrap();
        let mut batch = Batch::default();
        batch.clear(&buffer, 0, 1024).unwrap();
        let submission = batch.encode(&mut session).unwrap().submit().await.unwrap();
        (session, submission)
    }
}

#[tokio::test]
async fn nothing_is_submitted_without_a_lease_and_an_idle_holder_gives_it_back() {
    let shared = Shared::new();
    let (_session, mut submission) = shared.submit().await;
    assert_eq!(shared.next(), HolderMessage::Want(0));
    let trips = || shared.device.counters().round_trips.load(Ordering::Relaxed);
    assert_eq!((trips(), shared.device.holds_gpu()), (0, false));
    shared.to_holder.send(ArbiterMessage::Granted { epoch: 1, contended: false }).await.unwrap();
    submission.wait().await.unwrap();
    assert_eq!(trips(), 1);
    assert_eq!(shared.next(), HolderMessage::Release { epoch: 1, wants: false });
    let (_session, mut submission) = shared.submit().await;
    assert_eq!(shared.next(), HolderMessage::Want(1));
    // The lease is revoked before it was granted. The thread releases it, then wants the GPU again.
    shared.to_holder.send(ArbiterMessage::Revoked { epoch: 2 }).await.unwrap();
    assert_eq!(shared.next(), HolderMessage::Release { epoch: 2, wants: false });
    assert_eq!(shared.next(), HolderMessage::Want(2));
    shared.to_holder.send(ArbiterMessage::Granted { epoch: 3, contended: true }).await.unwrap();
    submission.wait().await.unwrap();
}

#[tokio::test]
async fn a_request_that_ends_while_it_waits_for_the_gpu_leaves_nothing_behind() {
    let shared = Shared::new();
    let (session, mut submission) = shared.submit().await;
    assert_eq!(shared.next(), HolderMessage::Want(0));
    let memory = Arc::clone(session.memory());
    drop(session);
    assert!(matches!(submission.wait().await, Err(Error::DeadlineExceeded(_))));
    assert_eq!(memory.used(), 0);
}

#[tokio::test]
async fn a_lost_device_is_told_and_what_waits_gets_an_error() {
    let shared = Shared::new();
    let (_session, mut submission) = shared.submit().await;
    shared.device.destroy();
    assert!(shared.device.is_lost() && shared.lost.load(Ordering::Relaxed));
    shared.to_holder.send(ArbiterMessage::Granted { epoch: 1, contended: false }).await.unwrap();
    assert!(matches!(submission.wait().await, Err(Error::DeviceLost(_))));
}

mod assets {
    use super::*;
    use gannet_host_gpu::{Asset, AssetCatalog, AssetFile};
    use std::io::Write;

    fn file(byte: u8, size: usize) -> Arc<AssetFile> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![byte; size]).unwrap();
        AssetFile::new(file, size as u64, format!("{byte:064}"))
    }

    fn catalog(files: &[&Arc<AssetFile>]) -> AssetCatalog {
        files.iter().enumerate().map(|(at, file)| (format!("a{at}"), Arc::clone(file))).collect()
    }

    #[tokio::test]
    async fn assets_are_shared_and_go_least_recently_used_first_when_memory_is_short() {
        const MIB: usize = 1 << 20;
        // Room for four assets of 2 MiB, and for the staging of one upload.
        let device = Device::noop(10 * MIB as u64);
        let files: Vec<_> = (1..=6).map(|byte| file(byte, 2 * MIB)).collect();
        let assets = catalog(&files.iter().collect::<Vec<_>>());
        let session = || session(&device, 1 << 30);
        let open = |name: &str| Asset::open(&assets, name).unwrap();
        let mut first = session();
        for name in ["a0", "a1", "a2"] {
            first.view_asset(&open(name), 0, 64).await.unwrap();
        }
        let mut second = session();
        second.view_asset(&open("a0"), 256, 64).await.unwrap();
        assert_eq!((device.resident_assets().count, first.memory().used()), (3, 0), "shared, not charged to sessions");
        // Pinned assets are not evicted, so the upload is refused.
        let refused = second.view_asset(&open("a3"), 0, 64).await;
        let full = second.view_asset(&open("a4"), 0, 64).await;
        assert!(refused.is_ok() && full.is_err_and(|error| matches!(error, Error::MemoryQuota(_))));
        drop((first, refused));
        // Now a1 and a2 are unused, and a1 was used longer ago.
        second.view_asset(&open("a4"), 0, 64).await.unwrap();
        assert_eq!(device.resident_assets().bytes, 8 * MIB as u64);
        drop(second);
        // A charge evicts as many assets as it needs. A charge that could never fit evicts none.
        let third = session();
        assert!(third.create_buffer(12 * MIB as u64).is_err());
        assert_eq!(device.resident_assets().count, 4);
        let buffer = third.create_buffer(9 * MIB as u64).unwrap();
        assert_eq!(device.resident_assets().count, 0);
        drop(buffer);
        assert_eq!(device.memory().used(), 0);
    }

    #[tokio::test]
    async fn views_are_held_to_the_asset_and_to_what_the_device_binds() {
        let device = Device::noop(1 << 30);
        let large = file(1, 130 << 20);
        let assets = catalog(&[&large]);
        let mut session = session(&device, 1 << 30);
        let asset = Asset::open(&assets, "a0").unwrap();
        for (offset, size, part) in [
            (0, 0, "no bytes"),
            (130 << 20, 1, "pass the end"),
            (u64::MAX, 2, "pass the end"),
            (0, 129 << 20, "the device binds at most 134217728"),
        ] {
            let refused = session.view_asset(&asset, offset, size).await.unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
        // An aligned range is not copied, whatever its length. Any other range is copied and charged.
        assert_eq!(session.view_asset(&asset, 256, 1001).await.unwrap().size(), 1001);
        assert_eq!(session.memory().used(), 0);
        let copy = session.view_asset(&asset, 257, 1001).await.unwrap();
        assert_eq!(session.memory().used(), 1024);
        drop(copy);
        assert_eq!(session.memory().used(), 0);
        let missing = Asset::open(&assets, "b").unwrap_err().to_string();
        assert!(missing.contains("no asset \"b\"") && missing.contains("a0"), "{missing}");
        assert!(asset.file().read(0, 65 << 20).is_err());
        assert_eq!(asset.file().read((130 << 20) - 2, 2).unwrap(), [1, 1]);
    }

    #[tokio::test]
    async fn an_asset_larger_than_a_buffer_lies_in_several() {
        const LARGEST: u64 = 256 << 20;
        let device = Device::noop(1 << 30);
        assert_eq!(device.limits().max_buffer_size, LARGEST);
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(LARGEST + 4096).unwrap();
        let large = AssetFile::new(sparse, LARGEST + 4096, "0".repeat(64));
        let assets = catalog(&[&large]);
        let mut session = session(&device, 1 << 30);
        let asset = Asset::open(&assets, "a0").unwrap();
        // A range of one buffer is not copied. A range over both is.
        for (offset, size, copied) in [(0, 4096, 0), (LARGEST, 4096, 0), (LARGEST - 4096, 8192, 8192)] {
            let view = session.view_asset(&asset, offset, size).await.unwrap();
            assert_eq!((view.size(), session.memory().used()), (size, copied), "{offset}");
        }
        let resident = device.resident_assets();
        assert_eq!((resident.count, resident.bytes), (1, LARGEST + 4096));
    }
}
