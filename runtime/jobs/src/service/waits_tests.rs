//! What the scaling sees of a queue that waits, over a simulated store, with a runner that admits nothing until it may.

use super::state::Names;
use super::{JobLimits, Jobs, Submission};
use crate::delivery::sender::{Answer, Message, SendError, Sender, Webhooks};
use crate::job::{Job, Policy};
use crate::outcome::Failure;
use crate::runner::{AnswerSink, Attempt, FunctionJobs, NotNow, Runner, WaitReason};
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::bill::Receipt;
use gannet_base::manifest::JobSettings;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_state::records::simulated::{SimulatedBlobs, SimulatedStore};
use gannet_state::secrets::Vault;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers each call for admission with this reason; with none it never answers.
#[derive(Debug, Clone, Default)]
struct Refuses(Arc<Mutex<Option<WaitReason>>>);

impl Runner for Refuses {
    type Admission = ();

    fn function(&self, _: &TenantName, _: &FunctionName) -> Option<FunctionJobs> {
        Some(FunctionJobs { settings: JobSettings::default(), concurrency: 8 })
    }

    fn has_room(&self, _: u64) -> bool {
        true
    }

    fn admit(&self, _: TenantName, _: FunctionName, _: RequestId) -> BoxFuture<'static, Result<(), NotNow>> {
        match *self.0.lock().unwrap() {
            Some(reason) => std::future::ready(Err(NotNow::Wait(reason, Duration::from_secs(30)))).boxed(),
            None => std::future::pending().boxed(),
        }
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

/// Lets the service's tasks go on until the queue waits for this reason.
async fn until(jobs: &Jobs<Refuses>, reason: WaitReason) {
    for _ in 0..10_000 {
        if jobs.counts(&names()).1 == Some(reason) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{reason:?}: {:?}", jobs.counts(&names()));
}

/// Starts the service with three jobs in the queue.
async fn start(runner: &Refuses, folder: &Path) -> Jobs<Refuses> {
    let vault = Arc::new(Vault::open(folder, None, std::iter::empty()).unwrap());
    let webhooks = Webhooks { sender: Arc::new(Nobody), vault, first_retry_ms: 5 };
    let store = Arc::new(SimulatedStore::new(7));
    let jobs = Jobs::start(store, Arc::new(SimulatedBlobs::new()), runner.clone(), webhooks).await.unwrap();
    for _ in 0..3 {
        let (tenant, function) = names();
        let submission = Submission {
            tenant,
            function,
            input: b"1".to_vec(),
            policy: Policy::default(),
            sync: false,
            webhook: None,
            idempotency_key: None,
            limits: JobLimits { queued: 9, bytes: 1 << 20 },
        };
        jobs.submit(submission).await.unwrap();
    }
    jobs
}

#[tokio::test]
async fn a_queue_that_more_workers_would_not_help_asks_for_none_until_it_waits_for_room_again() {
    for reason in [WaitReason::Quota, WaitReason::CrashLoop, WaitReason::Paused] {
        let (folder, runner) = (tempfile::tempdir().unwrap(), Refuses(Arc::new(Mutex::new(Some(reason)))));
        let jobs = start(&runner, folder.path()).await;
        until(&jobs, reason).await;
        assert_eq!(jobs.ready(&names()), (0, Duration::ZERO), "{reason:?}");
        // The reason ends, and the queue is told so, as by a deploy or a new limit.
        *runner.0.lock().unwrap() = None;
        jobs.look_again(&names().0);
        until(&jobs, WaitReason::Capacity).await;
        assert_eq!(jobs.ready(&names()).0, 3, "{reason:?}");
    }
}
