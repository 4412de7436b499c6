//! Quotas, validation and ordering, on a device that runs no shader. What shaders compute is tested through
//! the real binary.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use gannet_host_gpu::batch::Update;
use gannet_host_gpu::lease::{Ask, Link, Told};
use gannet_host_gpu::{Batch, Binding, Buffer, Catalog, Device, Error, Session, SessionLimits, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const COPY: &str = "
@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read_write> b: array<u32>;
@group(1) @binding(0) var<uniform> n: u32;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { b[id.x] = a[id.x] + n; }";

fn session(device: &Arc<Device>, memory_bytes: u64) -> Session {
    let limits = SessionLimits { memory_bytes, gpu_ns: 1_000_000_000 };
    Session::new(Arc::clone(device), Arc::new(Catalog::new()), limits)
}

fn bind(group: u32, index: u32, source: Source) -> Binding {
    Binding { group, index, source }
}

#[tokio::test]
async fn a_batch_with_reads_is_one_round_trip() {
    let device = Device::noop(1 << 30);
    let mut session = session(&device, 1 << 20);
    let kernel = session.compile_kernel(COPY, "main", &[]).run().await.unwrap();
    let (a, b) = (Buffer::create(&session, 256).unwrap(), Buffer::create(&session, 256).unwrap());
    a.write(&mut session, 0, vec![1; 100]).unwrap();
    a.write(&mut session, 100, vec![2; 4]).unwrap();
    let mut batch = Batch::default();
    let bindings = vec![
        bind(0, 0, Source::Buffer(Arc::clone(&a), 0, None)),
        bind(0, 1, Source::Buffer(Arc::clone(&b), 0, None)),
        bind(1, 0, Source::Inline(vec![0; 4])),
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
        assert!(submission.take_reads().await.is_empty(), "they are handed over once");
    }
}

#[tokio::test]
async fn everything_is_given_back_when_the_work_and_its_results_are_gone() {
    let device = Device::noop(1 << 30);
    let mut session = session(&device, 1 << 20);
    let buffer = Buffer::create(&session, 64 * 1024).unwrap();
    let mut batch = Batch::default();
    batch.read(&buffer, 0, 64 * 1024).unwrap();
    let mut submission = batch.encode(&mut session).unwrap().submit().await.unwrap();
    submission.wait().await.unwrap();
    let held = session.memory().used();
    assert!(held >= 2 * 64 * 1024, "the results count until they are taken: {held}");
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
    let buffer = Buffer::create(&session, 16 * 1024).unwrap();
    buffer.write(&mut session, 0, vec![7; 16 * 1024]).unwrap();
    let mut batch = Batch::default();
    batch.read(&buffer, 0, 4).unwrap();
    let refused = batch.encode(&mut session).unwrap_err();
    assert_eq!(refused.code(), "gpu_memory_quota", "{refused}");
    // The write still waits, and is still paid for.
    assert!(session.memory().used() >= 32 * 1024);
}

#[tokio::test]
async fn a_dispatch_is_checked_against_its_kernel() {
    let device = Device::noop(1 << 30);
    let session = session(&device, 1 << 20);
    let kernel = session.compile_kernel(COPY, "main", &[]).run().await.unwrap();
    let (a, b) = (Buffer::create(&session, 256).unwrap(), Buffer::create(&session, 256).unwrap());
    let source = || bind(0, 0, Source::Buffer(Arc::clone(&a), 0, None));
    let target = || bind(0, 1, Source::Buffer(Arc::clone(&b), 0, None));
    let inline = |size: usize| bind(1, 0, Source::Inline(vec![0; size]));
    for (bindings, part) in [
        (vec![source(), target()], "variable \"n\" has no binding"),
        (vec![source(), target(), inline(4), inline(4)], "is bound twice"),
        (vec![source(), target(), inline(4), bind(2, 0, Source::Inline(vec![0; 4]))], "uses no such variable"),
        (vec![source(), target(), inline(0)], "needs at least 4"),
        (vec![source(), target(), inline(3)], "a multiple of 4"),
        (vec![source(), target(), inline(8192)], "at most 4096"),
        (vec![source(), bind(0, 1, Source::Inline(vec![0; 4])), inline(4)], "cannot be bound to inline bytes"),
        (vec![source(), bind(0, 1, Source::Buffer(Arc::clone(&b), 4, None)), inline(4)], "is not a multiple of"),
        (vec![source(), bind(0, 1, Source::Buffer(Arc::clone(&b), 256, Some(256))), inline(4)], "pass the end"),
        (vec![source(), bind(0, 1, Source::Buffer(Arc::clone(&a), 0, None)), inline(4)], "is the same buffer"),
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
    let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: 0 };
    let mut session = Session::new(device, Arc::new(Catalog::new()), limits);
    let buffer = Buffer::create(&session, 4).unwrap();
    let refused = buffer.read(&mut session, 0, 4).unwrap_err();
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
                let buffer = Buffer::create(&session, 1024).unwrap();
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

/// A device on a GPU that the test shares out.
struct Shared {
    device: Arc<Device>,
    tells: tokio::sync::mpsc::Sender<Told>,
    asked: std::sync::mpsc::Receiver<Ask>,
    lost: Arc<AtomicBool>,
}

impl Shared {
    fn new() -> Self {
        let (tells, told) = tokio::sync::mpsc::channel(8);
        let (asks, asked) = std::sync::mpsc::channel();
        let lost = Arc::<AtomicBool>::default();
        let flag = Arc::clone(&lost);
        let link = Link {
            told,
            ask: Box::new(move |ask| asks.send(ask).unwrap()),
            on_loss: Arc::new(move || flag.store(true, Ordering::Relaxed)),
            notes: None,
        };
        Self { device: Device::noop_shared(1 << 20, Some(link)), tells, asked, lost }
    }

    /// What the GPU thread says next; nothing else has to run meanwhile.
    fn next(&self) -> Ask {
        self.asked.recv_timeout(std::time::Duration::from_secs(10)).unwrap()
    }

    async fn submit(&self) -> (Session, gannet_host_gpu::Submission) {
        let limits = SessionLimits { memory_bytes: 1 << 20, gpu_ns: u64::MAX };
        let mut session = Session::new(Arc::clone(&self.device), Arc::new(Catalog::new()), limits);
        let buffer = Buffer::create(&session, 1024).unwrap();
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
    assert_eq!(shared.next(), Ask::Want(0));
    let trips = || shared.device.counters().round_trips.load(Ordering::Relaxed);
    assert_eq!((trips(), shared.device.holds_gpu()), (0, false));
    shared.tells.send(Told::Granted { epoch: 1, contended: false }).await.unwrap();
    submission.wait().await.unwrap();
    assert_eq!(trips(), 1);
    assert_eq!(shared.next(), Ask::Release { epoch: 1, wants: false });
    let (_session, mut submission) = shared.submit().await;
    assert_eq!(shared.next(), Ask::Want(1));
    // Asked back before there was time for anything: it says that it wants more.
    shared.tells.send(Told::AskedBack { epoch: 2 }).await.unwrap();
    assert_eq!(shared.next(), Ask::Release { epoch: 2, wants: false });
    assert_eq!(shared.next(), Ask::Want(2));
    shared.tells.send(Told::Granted { epoch: 3, contended: true }).await.unwrap();
    submission.wait().await.unwrap();
}

#[tokio::test]
async fn a_request_that_ends_while_it_waits_for_the_gpu_leaves_nothing_behind() {
    let shared = Shared::new();
    let (session, mut submission) = shared.submit().await;
    assert_eq!(shared.next(), Ask::Want(0));
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
    shared.tells.send(Told::Granted { epoch: 1, contended: false }).await.unwrap();
    assert!(matches!(submission.wait().await, Err(Error::DeviceLost(_))));
}
