//! Schedules of a whole service, over a simulated store. Times come soon because the records say that earlier ones have
//! not been dealt with.

use super::state::Names;
use super::{JobLimits, Jobs, ScheduleError, ScheduleSource};
use crate::delivery::sender::{Answer, Message, SendError, Sender, Webhooks};
use crate::job::{Job, State};
use crate::keys;
use crate::outcome::Failure;
use crate::runner::{AnswerSink, Attempt, FunctionJobs, NotNow, Runner};
use crate::schedule::{Fired, SkipReason};
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::bill::Receipt;
use gannet_base::manifest::{JobSettings, Schedule};
use gannet_base::names::{FunctionName, RequestId, ScheduleName, TenantName};
use gannet_state::records::simulated::{Fault, SimulatedBlobs, SimulatedStore};
use gannet_state::records::{Change, Expect, RecordStore};
use gannet_state::secrets::Vault;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A function whose jobs never begin.
#[derive(Debug, Clone, Default)]
struct Waits {
    schedules: Vec<Schedule>,
    is_suspended: Arc<AtomicBool>,
    is_gone: Arc<AtomicBool>,
}

impl Runner for Waits {
    type Admission = ();

    fn function(&self, _: &TenantName, _: &FunctionName) -> Option<FunctionJobs> {
        let settings = JobSettings { key_concurrency: 8, ..JobSettings::default() };
        (!self.is_gone.load(Ordering::Relaxed)).then_some(FunctionJobs { settings, concurrency: 8 })
    }

    fn schedules(&self) -> Vec<(TenantName, FunctionName, ScheduleName, Schedule)> {
        if self.is_suspended.load(Ordering::Relaxed) || self.is_gone.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let (tenant, function) = names();
        let named = gannet_base::manifest::schedule::named(&self.schedules);
        named.map(|(name, schedule)| (tenant.clone(), function.clone(), name, schedule.clone())).collect()
    }

    fn job_limits(&self, _: &TenantName) -> Option<JobLimits> {
        (!self.is_suspended.load(Ordering::Relaxed)).then_some(JobLimits { queued: 5, bytes: 1 << 20 })
    }

    fn has_room(&self, _: u64) -> bool {
        true
    }

    fn admit(&self, _: TenantName, _: FunctionName, _: RequestId) -> BoxFuture<'static, Result<(), NotNow>> {
        std::future::pending().boxed()
    }

    fn run(&self, (): (), _: Attempt, _: Arc<dyn AnswerSink>) -> BoxFuture<'static, Result<u16, Failure>> {
        std::future::pending().boxed()
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

fn name() -> ScheduleName {
    ScheduleName::new("tick").unwrap()
}

fn schedule(more: serde_json::Value) -> Schedule {
    let mut all = json!({ "name": "tick", "cron": "0 0 1 1 *", "input": { "n": 1 }, "path": "/tick" });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn fired_key() -> String {
    keys::fired(&names().0, &names().1, &name())
}

struct World {
    store: Arc<SimulatedStore>,
    runner: Waits,
    folder: tempfile::TempDir,
}

impl World {
    fn new(schedules: Vec<Schedule>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: Arc::new(SimulatedStore::new(7)), runner: Waits { schedules, ..Waits::default() }, folder }
    }

    async fn start(&self) -> Jobs<Waits> {
        let vault = Arc::new(Vault::open(self.folder.path(), None, std::iter::empty()).unwrap());
        let webhooks = Webhooks { sender: Arc::new(Nobody), vault, first_retry_ms: 5 };
        let records: Arc<dyn RecordStore> = Arc::<SimulatedStore>::clone(&self.store);
        Jobs::start(records, Arc::new(SimulatedBlobs::new()), self.runner.clone(), webhooks).await.unwrap()
    }

    /// Writes that the times of more than a year have not been dealt with, so the schedule is due.
    async fn make_due(&self, schedule: &Schedule) {
        let found = self.fired().await;
        let mut fired = found.unwrap_or_else(|| Fired::begin(schedule, 0));
        fired.after = jiff::Timestamp::now().as_millisecond() - 400 * 24 * 3_600_000;
        let put = Change::Put { key: fired_key(), value: serde_json::to_vec(&fired).unwrap(), expect: Expect::Any };
        self.store.commit(vec![put]).await.unwrap();
    }

    async fn fired(&self) -> Option<Fired> {
        let entry = self.store.get(&fired_key()).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    async fn jobs(&self) -> Vec<Job> {
        let page = self.store.page(keys::JOBS, None, 1_000).await.unwrap();
        page.entries.iter().map(|entry| serde_json::from_slice(&entry.value).unwrap()).collect()
    }

    /// Waits until the schedule's record is as it should be.
    async fn until(&self, what: &str, is_so: impl Fn(&Fired) -> bool) -> Fired {
        for _ in 0..2_000 {
            if let Some(fired) = self.fired().await.filter(&is_so) {
                return fired;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what}: {:?}", self.fired().await)
    }
}

#[tokio::test]
async fn a_missed_time_is_made_up_once_by_two_schedulers_and_after_a_restart() {
    let yearly = schedule(json!({}));
    let mut world = World::new(vec![yearly.clone()]);
    world.make_due(&yearly).await;
    let (one, two) = (world.start().await, world.start().await);
    let fired = world.until("it fires", |fired| fired.last_job.is_some()).await;
    for jobs in [&one, &two] {
        jobs.look_again(&names().0);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let made = world.jobs().await;
    assert_eq!(made.len(), 1, "{made:?}");
    let job = &made[0];
    assert_eq!((Some(job.id), job.scheduled), (fired.last_job, fired.last_fired));
    assert_eq!(
        (job.schedule.as_deref(), job.path.as_deref(), job.state),
        (Some("tick"), Some("/tick"), State::InQueue)
    );
    let listed = one.schedules(&names()).await.unwrap();
    assert_eq!((listed.len(), listed[0].source, &listed[0].schedule), (1, ScheduleSource::Manifest, &yearly));
    assert!(listed[0].next > listed[0].fired.as_ref().unwrap().last_fired);
    // A crash loses neither the job nor the record of the time.
    for jobs in [one, two] {
        jobs.drain(Duration::ZERO).await;
    }
    world.store = Arc::new(world.store.crash());
    let jobs = world.start().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((world.jobs().await, world.fired().await), (made, Some(fired)));
    assert_eq!(jobs.used(&names().0).0, 1);
}

#[tokio::test]
async fn a_commit_of_which_it_is_not_known_whether_it_was_done_makes_one_job() {
    for fault in [Fault::UnknownDone, Fault::UnknownNotDone, Fault::UnknownLater, Fault::Unavailable] {
        let yearly = schedule(json!({}));
        let world = World::new(vec![yearly.clone()]);
        world.make_due(&yearly).await;
        world.store.fail_next(fault);
        let jobs = world.start().await;
        world.until("it fires", |fired| fired.last_job.is_some()).await;
        world.store.settle();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!((world.jobs().await.len(), jobs.used(&names().0).0), (1, 1), "{fault:?}");
        assert_eq!(jobs.counts(&names()).0.in_queue, 1, "{fault:?}");
    }
}

#[tokio::test]
async fn an_overlap_is_skipped_or_queued_and_nothing_is_missed_if_that_is_asked_for() {
    for (more, count, skipped) in [
        (json!({}), 1, Some(SkipReason::Overlap)),
        (json!({ "overlap": "queue" }), 2, None),
        (json!({ "overlap": "allow" }), 2, None),
        (json!({ "missed": "none" }), 1, Some(SkipReason::Missed)),
    ] {
        let yearly = schedule(more);
        let world = World::new(vec![yearly.clone()]);
        let jobs = world.start().await;
        world.until("it begins", |_| true).await;
        let first = jobs.run_schedule(&names(), &name()).await.unwrap();
        world.make_due(&yearly).await;
        jobs.look_again(&names().0);
        let is_dealt_with = |fired: &Fired| fired.last_skipped.is_some() || fired.last_job != Some(first.id);
        let fired = world.until("the time is dealt with", is_dealt_with).await;
        assert_eq!(world.jobs().await.len(), count, "{yearly:?}");
        assert_eq!(fired.last_skipped.map(|skipped| skipped.reason), skipped, "{yearly:?}");
    }
}

#[tokio::test]
async fn a_paused_queue_gets_its_jobs_and_a_suspended_tenant_none() {
    let yearly = schedule(json!({}));
    let world = World::new(vec![yearly.clone()]);
    world.runner.is_suspended.store(true, Ordering::Relaxed);
    world.make_due(&yearly).await;
    let jobs = world.start().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((world.jobs().await.len(), world.fired().await), (0, None));
    world.runner.is_suspended.store(false, Ordering::Relaxed);
    jobs.pause(&names().0, None, true).await.unwrap();
    jobs.look_again(&names().0);
    world.until("it begins anew", |_| true).await;
    assert_eq!(world.jobs().await.len(), 0, "what came while it was suspended is not made up");
    world.make_due(&yearly).await;
    jobs.look_again(&names().0);
    world.until("it fires", |fired| fired.last_job.is_some()).await;
    assert_eq!(world.jobs().await[0].state, State::InQueue);
}

#[tokio::test]
async fn clients_make_change_and_delete_schedules_within_the_limit_and_not_those_of_the_manifest() {
    let world = World::new(vec![schedule(json!({ "name": "fixed" }))]);
    let jobs = world.start().await;
    let (names, tick) = (names(), name());
    let fixed = ScheduleName::new("fixed").unwrap();
    let full = jobs.make_schedule(&names, &tick, schedule(json!({})), 1).await.unwrap_err();
    assert!(matches!(full, ScheduleError::LimitReached { limit: 1, used: 1 }), "{full}");
    jobs.make_schedule(&names, &tick, schedule(json!({})), 2).await.unwrap();
    let changed = jobs.make_schedule(&names, &tick, schedule(json!({ "cron": "@daily" })), 2).await.unwrap();
    assert_eq!((changed.source, changed.schedule.cron.as_str()), (ScheduleSource::Api, "@daily"));
    let own = jobs.make_schedule(&names, &fixed, schedule(json!({})), 9).await.unwrap_err();
    assert!(matches!(own, ScheduleError::InManifest { .. }), "{own}");
    assert!(matches!(jobs.delete_schedule(&names, &fixed).await, Err(ScheduleError::InManifest { .. })));
    assert_eq!(jobs.schedule_count(&names.0).await.unwrap(), 2);
    jobs.run_schedule(&names, &tick).await.unwrap();
    assert!(world.fired().await.unwrap().last_job.is_some());
    jobs.delete_schedule(&names, &tick).await.unwrap();
    assert!(matches!(jobs.run_schedule(&names, &tick).await, Err(ScheduleError::NotFound { .. })));
    // Those of a function that is gone go with it.
    jobs.make_schedule(&names, &tick, schedule(json!({})), 2).await.unwrap();
    world.runner.is_gone.store(true, Ordering::Relaxed);
    jobs.look_again(&names.0);
    for _ in 0..400 {
        if world.store.page("a/", None, 9).await.unwrap().entries.is_empty() && world.fired().await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the schedule is kept");
}
