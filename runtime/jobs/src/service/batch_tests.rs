//! Batches of a whole service, over a simulated store that fails and crashes.

use super::clock::Clock;
use super::state::Names;
use super::{BatchError, BatchView, JobLimits, Jobs, NewBatch, NewItems, SubmitError};
use crate::batch::BatchState;
use crate::delivery::sender::{Answer, Message, SendError, Sender, Webhooks};
use crate::job::{BatchId, Job, JobId, Policy, State};
use crate::keys;
use crate::outcome::{Condition, Failure};
use crate::runner::{AnswerSink, Attempt, FunctionJobs, NotNow, Runner};
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::bill::Receipt;
use gannet_base::manifest::JobSettings;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_state::records::RecordStore;
use gannet_state::records::simulated::{SimulatedBlobs, SimulatedStore};
use gannet_state::secrets::Vault;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Answers with its input. An input that ends with 5 fails at the first attempt.
#[derive(Debug, Clone, Default)]
struct Echo {
    /// Attempts do not end.
    is_held: Arc<AtomicBool>,
    do_requests_wait: Arc<AtomicBool>,
    result_s: u64,
}

impl Runner for Echo {
    type Admission = ();

    fn function(&self, _: &TenantName, _: &FunctionName) -> Option<FunctionJobs> {
        let settings = JobSettings {
            retries: 0,
            result_s: self.result_s,
            retry_on: vec!["platform".into()],
            ..JobSettings::default()
        };
        Some(FunctionJobs { settings, concurrency: 4 })
    }

    fn do_requests_wait(&self, _: &TenantName, _: &FunctionName) -> bool {
        self.do_requests_wait.load(Ordering::Relaxed)
    }

    fn has_room(&self, _: u64) -> bool {
        true
    }

    fn admit(&self, _: TenantName, _: FunctionName, _: RequestId) -> BoxFuture<'static, Result<(), NotNow>> {
        async { Ok(()) }.boxed()
    }

    fn run(&self, (): (), attempt: Attempt, sink: Arc<dyn AnswerSink>) -> BoxFuture<'static, Result<u16, Failure>> {
        let is_held = Arc::clone(&self.is_held);
        async move {
            assert!(attempt.batch.is_some());
            while is_held.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if attempt.number == 1 && attempt.input.ends_with(b"5") {
                let (code, message) = ("function_error".into(), "as asked".into());
                return Err(Failure { condition: Condition::Error, code, message, is_permanent: true });
            }
            sink.begin("application/json");
            let _ = sink.push(b"[\n");
            let _ = sink.push(&attempt.input);
            let _ = sink.push(b"\r\n]");
            Ok(200)
        }
        .boxed()
    }

    fn receipt(&self, _: RequestId) -> Option<Receipt> {
        None
    }

    fn bill(&self, _: Receipt) {}

    fn bill_lost(&self, _: &Job) {}
}

#[derive(Debug)]
struct Nobody;

impl Sender for Nobody {
    fn send(&self, _: Message) -> BoxFuture<'static, Result<Answer, SendError>> {
        std::future::pending().boxed()
    }
}

fn names() -> Names {
    (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap())
}

const LIMITS: JobLimits = JobLimits { queued: 1_000, bytes: 1 << 20 };

fn items(count: usize, key: Option<&str>) -> NewItems {
    let inputs = (0..count).map(|n| n.to_string().into_bytes()).collect();
    NewItems { inputs, idempotency_key: key.map(Into::into), limits: LIMITS }
}

fn new_batch(count: usize, key: Option<&str>, more: bool) -> NewBatch {
    NewBatch { name: None, policy: Policy::default(), more, webhook: None, items: items(count, key) }
}

async fn start(store: &Arc<SimulatedStore>, runner: Echo) -> Jobs<Echo> {
    start_hours_ahead(store, runner, 0).await
}

/// Starts with a clock that was put forward.
async fn start_hours_ahead(store: &Arc<SimulatedStore>, runner: Echo, hours: i64) -> Jobs<Echo> {
    let folder = tempfile::tempdir().unwrap();
    let vault = Arc::new(Vault::open(folder.path(), None, std::iter::empty()).unwrap());
    let webhooks = Webhooks { sender: Arc::new(Nobody), vault, first_retry_ms: 5 };
    let records = Arc::<SimulatedStore>::clone(store);
    let clock = Clock::put_forward(hours * 3_600_000);
    Jobs::start_at(clock, records, Arc::new(SimulatedBlobs::new()), runner, webhooks).await.unwrap()
}

async fn records(store: &SimulatedStore, prefix: &str) -> usize {
    store.page(prefix, None, usize::MAX).await.unwrap().entries.len()
}

fn check_counts(view: &BatchView) {
    let counts = view.counts;
    let sum = counts.in_queue + counts.in_progress + counts.completed + counts.failed;
    assert_eq!(sum + counts.cancelled + counts.timed_out, counts.total, "{view:?}");
}

async fn until(jobs: &Jobs<Echo>, id: &str, what: impl Fn(&BatchView) -> bool) -> BatchView {
    for _ in 0..5_000 {
        let view = jobs.batch(&names(), BatchId::parse(id).unwrap()).unwrap();
        check_counts(&view);
        if what(&view) {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{:?}", jobs.batch(&names(), BatchId::parse(id).unwrap()));
}

async fn results(jobs: &Jobs<Echo>, id: BatchId, from: u32) -> Vec<Value> {
    let (mut lines, mut next) = (Vec::new(), Some(from));
    while let Some(from) = next {
        let page = jobs.batch_results(&names(), id, from).await.unwrap();
        lines.extend(page.lines);
        next = page.next;
    }
    String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_batch_runs_tells_its_results_in_order_and_failed_items_are_retried() {
    let store = Arc::new(SimulatedStore::new(1));
    let jobs = start(&store, Echo { result_s: 60, ..Echo::default() }).await;
    let made = jobs.make_batch(&names(), new_batch(20, None, true)).await.unwrap();
    let id = BatchId::parse(&made.id).unwrap();
    assert_eq!((made.counts.total, made.more), (20, true));
    let grown = jobs.add_items(&names(), id, items(9, None)).await.unwrap();
    assert_eq!(grown.counts.total, 29);
    let open = until(&jobs, &made.id, |view| view.counts.have_all_ended()).await;
    assert_eq!((open.status, open.kept_until), (BatchState::InProgress, None), "more may be added");
    let closed = jobs.close_batch(&names(), id).await.unwrap();
    assert_eq!((closed.status, closed.counts.completed, closed.counts.failed), (BatchState::Completed, 26, 3));
    assert!(matches!(jobs.add_items(&names(), id, items(1, None)).await, Err(BatchError::Closed(_))));
    let lines = results(&jobs, id, 0).await;
    assert_eq!(lines.len(), 29);
    for (index, line) in lines.iter().enumerate() {
        let input = if index < 20 { index } else { index - 20 };
        assert_eq!(line["index"], index);
        match input % 10 {
            5 => assert_eq!((&line["status"], &line["errorCode"]), (&"FAILED".into(), &"function_error".into())),
            _ => assert_eq!(line["output"], serde_json::json!([input]), "{line}"),
        }
    }
    assert_eq!(results(&jobs, id, 27).await, lines[27..]);
    let again = jobs.retry_batch(&names(), id).await.unwrap();
    assert_eq!(again.retried, 3);
    let done = until(&jobs, &made.id, |view| view.status == BatchState::Completed).await;
    assert_eq!(done.counts.completed, 29);
    assert_eq!(jobs.used(&names().0).0, 0);
    let others = (names().0, FunctionName::new("other").unwrap());
    assert!(matches!(jobs.batch(&others, id), Err(BatchError::NotFound)));
    assert_eq!((jobs.batches(&names(), None, 9).0.len(), jobs.batches(&others, None, 9).0.len()), (1, 0));
    // After a restart it is the same.
    let store = Arc::new(store.crash());
    let jobs = start(&store, Echo { result_s: 60, ..Echo::default() }).await;
    assert_eq!(jobs.batch(&names(), id).unwrap().counts, done.counts);
    assert_eq!(results(&jobs, id, 0).await.len(), 29);
}

#[tokio::test]
async fn results_are_kept_until_the_batch_has_ended_and_nothing_is_left_then() {
    let store = Arc::new(SimulatedStore::new(2));
    let jobs = start(&store, Echo::default()).await;
    let made = jobs.make_batch(&names(), new_batch(12, Some("k"), true)).await.unwrap();
    let id = BatchId::parse(&made.id).unwrap();
    until(&jobs, &made.id, |view| view.counts.have_all_ended()).await;
    super::batch_sweep::remove_kept(&jobs.shared).await.unwrap();
    assert_eq!(results(&jobs, id, 0).await.len(), 12, "the batch is open");
    jobs.close_batch(&names(), id).await.unwrap();
    super::batch_sweep::remove_kept(&jobs.shared).await.unwrap();
    assert!(matches!(jobs.batch(&names(), id), Err(BatchError::NotFound)));
    for prefix in ["b/", "j/", "i/", "o/"] {
        assert_eq!(records(&store, prefix).await, 0, "{prefix}");
    }
    assert_eq!(jobs.used(&names().0), (0, 0));
    // Its key is free again, whatever is sent.
    let next = jobs.make_batch(&names(), new_batch(3, Some("k"), false)).await.unwrap();
    assert!(next.id != made.id && next.counts.total == 3, "{next:?}");
}

#[tokio::test]
async fn an_idempotency_key_is_known_as_long_as_what_it_made() {
    let mut store = Arc::new(SimulatedStore::new(5));
    let runner = Echo { result_s: 7 * 86_400, ..Echo::default() };
    let jobs = start(&store, runner.clone()).await;
    let made = jobs.make_batch(&names(), new_batch(3, Some("k"), false)).await.unwrap();
    until(&jobs, &made.id, |view| view.counts.have_all_ended()).await;
    for (hours, is_known) in [(25, true), (8 * 24, false)] {
        store = Arc::new(store.crash());
        let jobs = start_hours_ahead(&store, runner.clone(), hours).await;
        super::batch_sweep::remove_kept(&jobs.shared).await.unwrap();
        super::sweep::remove_keys(&jobs.shared).await.unwrap();
        assert_eq!(records(&store, keys::IDEMPOTENCY).await, usize::from(is_known), "after {hours} hours");
        let again = jobs.make_batch(&names(), new_batch(3, Some("k"), false)).await.unwrap();
        assert_eq!(again.id == made.id, is_known, "after {hours} hours");
    }
}

#[tokio::test]
async fn items_leave_half_to_those_who_wait_and_a_cancel_leaves_what_runs() {
    let store = Arc::new(SimulatedStore::new(3));
    let runner = Echo { result_s: 60, ..Echo::default() };
    runner.is_held.store(true, Ordering::Relaxed);
    runner.do_requests_wait.store(true, Ordering::Relaxed);
    let jobs = start(&store, runner.clone()).await;
    let made = jobs.make_batch(&names(), new_batch(12, None, false)).await.unwrap();
    let id = BatchId::parse(&made.id).unwrap();
    until(&jobs, &made.id, |view| view.counts.in_progress == 2).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(jobs.batch(&names(), id).unwrap().counts.in_progress, 2);
    runner.do_requests_wait.store(false, Ordering::Relaxed);
    until(&jobs, &made.id, |view| view.counts.in_progress == 4).await;
    let cancelled = jobs.cancel_batch(&names(), id).await.unwrap();
    assert_eq!((cancelled.status, cancelled.counts.in_progress), (BatchState::Cancelled, 4), "{cancelled:?}");
    assert_eq!((cancelled.counts.cancelled, cancelled.more), (8, false));
    assert_eq!(jobs.cancel_batch(&names(), id).await.unwrap(), cancelled);
    assert!(matches!(jobs.retry_batch(&names(), id).await, Err(BatchError::Cancelled(_))));
    runner.is_held.store(false, Ordering::Relaxed);
    let ended = until(&jobs, &made.id, |view| view.counts.have_all_ended()).await;
    assert_eq!((ended.counts.completed, ended.counts.cancelled, ended.status), (4, 8, BatchState::Cancelled));
    assert_eq!(results(&jobs, id, 0).await.len(), 12);
}

#[tokio::test]
async fn what_is_not_to_be_ended_any_more_stays_in_the_queue() {
    let runner = Echo { result_s: 60, ..Echo::default() };
    runner.is_held.store(true, Ordering::Relaxed);
    let jobs = start(&Arc::new(SimulatedStore::new(6)), runner.clone()).await;
    let made = jobs.make_batch(&names(), new_batch(5, None, false)).await.unwrap();
    let id = BatchId::parse(&made.id).unwrap();
    let all: Vec<JobId> = (0..5).map(|index| JobId::item(id, index)).collect();
    // As when the time of jobs was over that a client has put into the queue again meanwhile.
    let ended = jobs.shared.end_together(&all, &[State::InQueue, State::InProgress], |_| {}).await.unwrap();
    assert_eq!(ended, 0);
    runner.is_held.store(false, Ordering::Relaxed);
    let ended = until(&jobs, &made.id, |view| view.counts.have_all_ended()).await;
    assert_eq!(ended.counts.completed, 5, "{ended:?}");
}

#[tokio::test]
async fn a_key_gives_the_same_batch_and_a_limit_keeps_nothing() {
    let store = Arc::new(SimulatedStore::new(4));
    let jobs = start(&store, Echo { result_s: 60, ..Echo::default() }).await;
    let own = names();
    let make = || jobs.make_batch(&own, new_batch(9, Some("k"), true));
    let (one, two) = tokio::join!(make(), make());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.id, two.id);
    assert_eq!((records(&store, "b/").await, records(&store, "j/").await), (1, 9));
    let other = jobs.make_batch(&names(), new_batch(8, Some("k"), true)).await;
    assert!(matches!(other, Err(BatchError::OtherBody(id)) if id.to_string() == one.id));
    let id = BatchId::parse(&one.id).unwrap();
    for _ in 0..2 {
        assert_eq!(jobs.add_items(&names(), id, items(9, Some("k"))).await.unwrap().counts.total, 18);
    }
    until(&jobs, &one.id, |view| view.counts.have_all_ended()).await;
    let mut many = items(11, None);
    many.limits.queued = 10;
    let refused = jobs.add_items(&names(), id, many).await;
    assert!(matches!(refused, Err(BatchError::Submit(SubmitError::LimitReached { limit: 10, used: 0, .. }))));
    assert_eq!(records(&store, "j/").await, 18);
}

#[tokio::test]
async fn a_batch_has_at_most_a_million_items() {
    use crate::batch::ITEMS_MAX;
    use gannet_state::records::{Change, Expect};
    let store = Arc::new(SimulatedStore::new(5));
    let jobs = start(&store, Echo { result_s: 60, ..Echo::default() }).await;
    let made = jobs.make_batch(&names(), new_batch(1, None, true)).await.unwrap();
    let id = BatchId::parse(&made.id).unwrap();
    until(&jobs, &made.id, |view| view.counts.have_all_ended()).await;
    // As if all but nine had been added.
    let key = keys::batch(id);
    let mut record: Value = serde_json::from_slice(&store.get(&key).await.unwrap().unwrap().value).unwrap();
    record["total"] = (ITEMS_MAX - 9).into();
    let value = serde_json::to_vec(&record).unwrap();
    store.commit(vec![Change::Put { key, value, expect: Expect::Any }]).await.unwrap();
    let store = Arc::new(store.crash());
    let jobs = start(&store, Echo { result_s: 60, ..Echo::default() }).await;
    let refused = jobs.add_items(&names(), id, items(10, Some("k"))).await;
    assert!(matches!(refused, Err(BatchError::TooLarge { items: 1_000_001 })), "{refused:?}");
    assert_eq!((records(&store, "j/").await, jobs.used(&names().0).0), (1, 0), "nothing of it is kept");
    assert_eq!(jobs.add_items(&names(), id, items(9, Some("k"))).await.unwrap().counts.total, 1_000_000);
    let refused = jobs.add_items(&names(), id, items(1, None)).await;
    assert!(matches!(refused, Err(BatchError::TooLarge { items: 1_000_001 })), "{refused:?}");
}

/// One life of the service: makes a batch and adds to it, for so many steps. Returns the batch if it was accepted.
async fn live(store: &Arc<SimulatedStore>, polls: usize) -> Option<(String, bool)> {
    store.fail_at_random(0);
    let jobs = start(store, Echo { result_s: 600, ..Echo::default() }).await;
    store.fail_at_random(100);
    store.answer_late(6);
    let calls = async {
        let mut told = None;
        if let Ok(made) = jobs.make_batch(&names(), new_batch(20, Some("k"), true)).await {
            told = Some((made.id.clone(), false));
            let id = BatchId::parse(&made.id).unwrap();
            if jobs.add_items(&names(), id, items(17, Some("k"))).await.is_ok() {
                told = Some((made.id, true));
            }
        }
        told
    };
    tokio::pin!(calls);
    // The calls go on in tasks of their own, so a time that is over is a crash in the middle of one.
    for _ in 0..polls {
        if let Some(told) = (&mut calls).now_or_never() {
            return told;
        }
        tokio::task::yield_now().await;
    }
    None
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn all_items_of_a_call_are_there_or_none_whenever_the_server_ends(
        seed: u64, lives in proptest::collection::vec(0usize..120, 0..4)
    ) {
        let mut store = Arc::new(SimulatedStore::new(seed));
        let mut accepted: Option<(String, bool)> = None;
        for polls in lives {
            let runtime = runtime();
            let told = runtime.block_on(live(&store, polls));
            if let Some((id, added)) = told {
                let before = accepted.take();
                prop_assert!(before.as_ref().is_none_or(|(first, _)| *first == id), "two batches for one key");
                accepted = Some((id, added || before.is_some_and(|(_, added)| added)));
            }
            let next = store.crash();
            runtime.shutdown_background();
            store = Arc::new(next);
        }
        runtime().block_on(async {
            let jobs = start(&store, Echo { result_s: 600, ..Echo::default() }).await;
            let (batches, all) = (records(&store, keys::BATCHES).await, records(&store, keys::JOBS).await);
            let found: u64 = jobs.batches(&names(), None, 9).0.iter().map(|view| view.counts.total).sum();
            assert!(matches!((batches, all), (0, 0) | (1, 20 | 37)), "{batches} batches with {all} items");
            assert_eq!(found, all as u64);
            if let Some((id, added)) = &accepted {
                assert!(jobs.batch(&names(), BatchId::parse(id).unwrap()).is_ok());
                assert_eq!(*added, *added && all == 37);
            }
            // The same calls again.
            let made = jobs.make_batch(&names(), new_batch(20, Some("k"), true)).await.unwrap();
            let id = BatchId::parse(&made.id).unwrap();
            jobs.add_items(&names(), id, items(17, Some("k"))).await.unwrap();
            jobs.close_batch(&names(), id).await.unwrap();
            assert!(accepted.is_none_or(|(before, _)| before == made.id));
            let done = until(&jobs, &made.id, |view| view.status == BatchState::Completed).await;
            assert_eq!((done.counts.total, done.counts.completed + done.counts.failed), (37, 37));
            assert_eq!((records(&store, keys::JOBS).await, jobs.used(&names().0).0), (37, 0));
            assert_eq!(results(&jobs, id, 0).await.len(), 37);
        });
    }
}
