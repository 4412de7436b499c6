//! The whole service against a simple model: random calls, faults of the store, late and unknown answers, crashes, and
//! clocks that are set while the server does not run.
//!
//! What must hold in the end: every job that was accepted is there and has ended; what a client saw of an end never
//! changes; a result belongs to the attempt that the record names; at most one attempt of a job runs at a time; and
//! nothing is left in the index.

use super::clock::Clock;
use super::{JobLimits, Jobs, Submission};
use crate::delivery::sender::{Answer, Message, SendError, Sender, Webhooks};
use crate::job::{Job, JobId, Millis, Policy, State};
use crate::outcome::{Condition, Failure};
use crate::runner::{AnswerSink, Attempt, FunctionJobs, NotNow, Runner};
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::bill::Receipt;
use gannet_base::manifest::JobSettings;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_state::records::simulated::{SimulatedBlobs, SimulatedStore};
use gannet_state::secrets::Vault;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Names = (TenantName, FunctionName);

/// What all lives of the service share.
#[derive(Debug, Default)]
struct World {
    running: HashSet<JobId>,
    overlaps: u32,
}

/// An attempt that runs. Its end is noted even if it is dropped.
struct Guard(Arc<Mutex<World>>, JobId);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.lock().unwrap().running.remove(&self.1);
    }
}

/// Runs jobs: the input says how many attempts fail first.
#[derive(Debug)]
struct Numbers {
    world: Arc<Mutex<World>>,
}

impl Runner for Numbers {
    type Admission = ();

    fn function(&self, _: &TenantName, _: &FunctionName) -> Option<FunctionJobs> {
        let settings = JobSettings {
            retries: 100,
            backoff_s: 0,
            backoff_max_s: 1,
            retry_on: vec!["error".into(), "platform".into()],
            ..JobSettings::default()
        };
        Some(FunctionJobs { settings, concurrency: 3 })
    }

    fn has_room(&self, _: u64) -> bool {
        true
    }

    fn admit(&self, _: TenantName, _: FunctionName, _: RequestId) -> BoxFuture<'static, Result<(), NotNow>> {
        async {
            tokio::task::yield_now().await;
            Ok(())
        }
        .boxed()
    }

    fn run(&self, (): (), attempt: Attempt, sink: Arc<dyn AnswerSink>) -> BoxFuture<'static, Result<u16, Failure>> {
        let world = Arc::clone(&self.world);
        async move {
            {
                let mut world = world.lock().unwrap();
                if !world.running.insert(attempt.job) {
                    world.overlaps += 1;
                }
            }
            let _guard = Guard(world, attempt.job);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let failing: u32 = std::str::from_utf8(&attempt.input).unwrap().trim().parse().unwrap();
            if attempt.number <= failing {
                return Err(Failure {
                    condition: Condition::Error,
                    code: "asked".into(),
                    message: "as asked".into(),
                    is_permanent: false,
                });
            }
            sink.begin("application/json");
            let _ = sink.push(attempt.number.to_string().as_bytes());
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
struct Nowhere;

impl Sender for Nowhere {
    fn send(&self, _: Message) -> BoxFuture<'static, Result<Answer, SendError>> {
        async { Ok(Answer { status: 200, retry_after: None }) }.boxed()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Submit {
        failing: u8,
        key: Option<u8>,
        /// Whether its input is too long for a record.
        is_large: bool,
        delay_ms: Option<u8>,
    },
    Cancel(usize),
    Retry(usize),
    Look(usize),
    Purge,
    Pause(bool),
    /// Lets the tasks go on.
    Go(u8),
    /// Kills the service, and starts it again with what the store kept, and with a clock that is so many seconds ahead.
    Crash(i16),
}

/// Bytes that do not fit into a record with others.
const LARGE: usize = 300_000;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4, proptest::option::of(0u8..4), 0u8..16, proptest::option::of(0u8..30)).prop_map(
            |(failing, key, large, delay_ms)| Step::Submit { failing, key, is_large: large == 0, delay_ms }
        ),
        2 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Retry),
        3 => any::<usize>().prop_map(Step::Look),
        1 => Just(Step::Purge),
        1 => any::<bool>().prop_map(Step::Pause),
        6 => (1u8..40).prop_map(Step::Go),
        1 => prop_oneof![Just(0), -1_200i16..1_200].prop_map(Step::Crash),
    ]
}

/// What the client knows.
#[derive(Debug, Default)]
struct Client {
    accepted: Vec<JobId>,
    keys: HashMap<u8, JobId>,
    /// The end that was seen of a job, and its output.
    ends: HashMap<JobId, (State, Option<String>)>,
}

impl Client {
    /// Notes what was seen of a job, and checks it against what was seen before.
    fn saw(&mut self, id: JobId, state: State, output: Option<String>) {
        if state.is_terminal() {
            let end = (state, output);
            let first = self.ends.entry(id).or_insert_with(|| end.clone());
            assert_eq!(*first, end, "the end of {id} has changed");
        }
    }
}

async fn look(jobs: &Jobs<Numbers>, names: &Names, client: &mut Client, id: JobId) -> Option<State> {
    let view = jobs.status(names, id).await.ok()?;
    let output = view.output.map(|output| output.get().to_owned());
    if view.status == State::Completed {
        assert_eq!(output, Some(view.attempt.to_string()), "a result of another attempt");
    }
    client.saw(id, view.status, output);
    Some(view.status)
}

async fn take(step: Step, jobs: &Jobs<Numbers>, names: &Names, client: &mut Client) {
    let pick = |client: &Client, at: usize| client.accepted.get(at % client.accepted.len().max(1)).copied();
    match step {
        Step::Submit { failing, key, is_large, delay_ms } => {
            let spaces = " ".repeat(if is_large { LARGE } else { 0 });
            let submission = Submission {
                tenant: names.0.clone(),
                function: names.1.clone(),
                // With a key, always the same.
                input: if key.is_some() { b"1".to_vec() } else { format!("{failing}{spaces}").into_bytes() },
                policy: Policy { delay_ms: delay_ms.filter(|_| key.is_none()).map(u64::from), ..Policy::default() },
                sync: false,
                webhook: (failing == 2 && key.is_none()).then(|| "https://example.org/".to_owned()),
                idempotency_key: key.map(|key| format!("key {key}")),
                limits: JobLimits { queued: 1_000, bytes: 1 << 30 },
            };
            if let Ok(submitted) = jobs.submit(submission).await {
                if let Some(key) = key {
                    let first = *client.keys.entry(key).or_insert(submitted.id);
                    assert_eq!(first, submitted.id, "two jobs for one idempotency key");
                }
                if !client.accepted.contains(&submitted.id) {
                    client.accepted.push(submitted.id);
                }
            }
        }
        Step::Cancel(at) => {
            if let Some(id) = pick(client, at)
                && let Ok(State::Cancelled) = jobs.cancel(names, id).await
            {
                client.saw(id, State::Cancelled, None);
            }
        }
        Step::Retry(at) => {
            if let Some(id) = pick(client, at) {
                let _ = jobs.retry(names, id).await;
            }
        }
        Step::Look(at) => {
            if let Some(id) = pick(client, at) {
                look(jobs, names, client, id).await;
            }
        }
        Step::Purge => drop(jobs.purge(names).await),
        Step::Pause(paused) => drop(jobs.pause(&names.0, Some(&names.1), paused).await),
        Step::Go(times) => {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        }
        Step::Crash(_) => {}
    }
}

/// One life of the service: takes steps until the end, or a crash. Then it returns by how much the clock is set.
async fn live(
    (store, blobs, ahead_s): (&Arc<SimulatedStore>, &Arc<SimulatedBlobs>, i16),
    world: &Arc<Mutex<World>>,
    (vault, names): (&Arc<Vault>, &Names),
    client: &mut Client,
    steps: &mut impl Iterator<Item = Step>,
) -> Option<i16> {
    let webhooks = Webhooks { sender: Arc::new(Nowhere), vault: Arc::clone(vault), first_retry_ms: 5 };
    let runner = Numbers { world: Arc::clone(world) };
    let records = Arc::<SimulatedStore>::clone(store);
    // A start needs its store to work.
    store.fail_at_random(0);
    let clock = Clock::put_forward(Millis::from(ahead_s) * 1000);
    let blobs = Arc::<SimulatedBlobs>::clone(blobs);
    let jobs = Jobs::start_at(clock, records, blobs, runner, webhooks).await.unwrap();
    store.fail_at_random(60);
    store.answer_late(4);
    for step in steps {
        if let Step::Crash(ahead_s) = step {
            return Some(ahead_s);
        }
        take(step, &jobs, names, client).await;
    }
    // The end: the store works, and every job ends.
    store.fail_at_random(0);
    store.settle();
    while jobs.pause(&names.0, Some(&names.1), false).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for id in client.accepted.clone() {
        for round in 0.. {
            assert!(round < 5_000, "{id} does not end: {:?}", jobs.shared.read(id).await);
            let state = look(&jobs, names, client, id).await;
            let state = state.unwrap_or_else(|| panic!("{id} was accepted and is lost"));
            if state.is_terminal() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    // Nothing is left in the index, also of jobs that were stored though their clients heard otherwise.
    for round in 0.. {
        let (queued, _) = jobs.used(&names.0);
        let (counts, _) = jobs.counts(names);
        if (queued, counts.in_queue, counts.in_progress) == (0, 0, 0) {
            break;
        }
        assert!(round < 5_000, "{queued} jobs are counted: {counts:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(jobs.shared.state().has_no_waiters(), "waiters are left");
    None
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_job_is_lost_or_ends_twice_whatever_the_store_answers_and_whenever_it_crashes(
        seed: u64, steps in proptest::collection::vec(step(), 1..60)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let vault = Arc::new(Vault::open(folder.path(), None, std::iter::empty()).unwrap());
        let names = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        let (world, mut client) = (Arc::<Mutex<World>>::default(), Client::default());
        let mut store = Arc::new(SimulatedStore::new(seed));
        let (blobs, mut ahead_s) = (Arc::<SimulatedBlobs>::default(), 0);
        let mut steps = steps.into_iter();
        loop {
            let runtime = runtime();
            let stored = (&store, &blobs, ahead_s);
            let crashed = runtime.block_on(live(stored, &world, (&vault, &names), &mut client, &mut steps));
            let next = store.crash();
            // Its tasks end wherever they are.
            runtime.shutdown_background();
            prop_assert!(world.lock().unwrap().running.is_empty());
            let Some(ahead) = crashed else { break };
            ahead_s = ahead;
            store = Arc::new(next);
        }
        prop_assert_eq!(world.lock().unwrap().overlaps, 0);
    }
}

/// How many cases are tried: `GANNET_MODEL_CASES`, or a few.
fn cases() -> u32 {
    std::env::var("GANNET_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64)
}
