//! Deliveries of a whole service, over a simulated store, with a sender that answers as it is told.

use super::{DeliveryError, DeliveryStatus};
use crate::batch::Batch;
use crate::delivery::sender::{Answer, Message, SendError, Sender, Webhooks};
use crate::delivery::signature::{Secret, signatures};
use crate::hook::event::Event;
use crate::hook::headers::Headers;
use crate::job::{Job, JobId, Policy};
use crate::keys;
use crate::outcome::{Condition, Failure};
use crate::runner::{AnswerSink, Attempt, FunctionJobs, NotNow, Runner};
use crate::service::state::Names;
use crate::service::{JobLimits, Jobs, NewBatch, NewItems, OpenHook, ReceiveError, Submission, SubmitError};
use futures::FutureExt;
use futures::future::BoxFuture;
use gannet_base::bill::Receipt;
use gannet_base::manifest::JobSettings;
use gannet_base::names::{FunctionName, HookName, RequestId, TenantName};
use gannet_state::records::simulated::{Fault, SimulatedBlobs, SimulatedStore};
use gannet_state::records::{Change, Expect, RecordStore};
use gannet_state::secrets::Vault;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

const WAIT_MAX: Duration = Duration::from_secs(20);

/// Runs a job by its input: `"fail"` fails, anything else is the output.
#[derive(Debug)]
struct Echo(JobSettings);

impl Runner for Echo {
    type Admission = ();

    fn function(&self, _: &TenantName, _: &FunctionName) -> Option<FunctionJobs> {
        Some(FunctionJobs { settings: self.0.clone(), concurrency: 8 })
    }

    fn has_room(&self, _: u64) -> bool {
        true
    }

    fn admit(&self, _: TenantName, _: FunctionName, _: RequestId) -> BoxFuture<'static, Result<(), NotNow>> {
        async { Ok(()) }.boxed()
    }

    fn run(&self, (): (), attempt: Attempt, sink: Arc<dyn AnswerSink>) -> BoxFuture<'static, Result<u16, Failure>> {
        async move {
            let failure = |condition, code: &str| Failure {
                condition,
                code: code.into(),
                message: "as asked".into(),
                is_permanent: true,
            };
            match &*attempt.input {
                b"\"fail\"" => return Err(failure(Condition::Error, "asked")),
                b"\"late\"" => return Err(failure(Condition::Timeout, "deadline_exceeded")),
                _ => {}
            }
            sink.begin("application/json");
            let _ = sink.push(&attempt.input);
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

/// Answers with what it was given, then with 200, and passes on each message.
#[derive(Debug)]
struct Told {
    answers: Mutex<VecDeque<Result<Answer, SendError>>>,
    sent: mpsc::UnboundedSender<Message>,
    /// The fault that the store's next commit meets once a message was sent.
    fault: Mutex<Option<(Arc<SimulatedStore>, Fault)>>,
}

impl Sender for Told {
    fn send(&self, message: Message) -> BoxFuture<'static, Result<Answer, SendError>> {
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or_else(|| status(200));
        if let Some((store, fault)) = self.fault.lock().unwrap().take() {
            store.fail_next(fault);
        }
        let _ = self.sent.send(message);
        async { answer }.boxed()
    }
}

fn status(status: u16) -> Result<Answer, SendError> {
    Ok(Answer { status, retry_after: None })
}

struct Service {
    jobs: Jobs<Echo>,
    store: Arc<SimulatedStore>,
    told: Arc<Told>,
    sent: mpsc::UnboundedReceiver<Message>,
    names: Names,
    folder: Arc<tempfile::TempDir>,
}

impl Service {
    async fn start(settings: JobSettings, answers: Vec<Result<Answer, SendError>>) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::over(SimulatedStore::new(1), folder, settings, 5, answers).await
    }

    async fn over(
        store: SimulatedStore,
        folder: Arc<tempfile::TempDir>,
        settings: JobSettings,
        first_retry_ms: i64,
        answers: Vec<Result<Answer, SendError>>,
    ) -> Self {
        let (sender, sent) = mpsc::unbounded_channel();
        let told = Arc::new(Told { answers: Mutex::new(answers.into()), sent: sender, fault: Mutex::default() });
        let vault = Arc::new(Vault::open(folder.path(), None, std::iter::empty()).unwrap());
        let webhooks = Webhooks { sender: Arc::<Told>::clone(&told), vault, first_retry_ms };
        let blobs = Arc::new(SimulatedBlobs::new());
        let store = Arc::new(store);
        let jobs = Jobs::start(Arc::<SimulatedStore>::clone(&store), blobs, Echo(settings), webhooks).await.unwrap();
        let names = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        Self { jobs, store, told, sent, names, folder }
    }

    /// Kills the service and starts another one with what the store has.
    async fn restart(self) -> Self {
        let store = self.store.crash();
        self.jobs.drain(Duration::ZERO).await;
        let mut next = Self::over(store, self.folder, JobSettings::default(), 5, Vec::new()).await;
        next.names = self.names;
        next
    }

    async fn submit(&self, input: &str) -> JobId {
        let submission = Submission {
            tenant: self.names.0.clone(),
            function: self.names.1.clone(),
            input: input.as_bytes().to_vec(),
            policy: Policy::default(),
            sync: false,
            webhook: Some("https://example.org/hook".into()),
            idempotency_key: None,
            limits: JobLimits { queued: 100, bytes: 1 << 20 },
        };
        self.jobs.submit(submission).await.unwrap().id
    }

    /// Waits for the next message, and checks its form and its signature.
    async fn message(&mut self) -> (String, Value) {
        let message = tokio::time::timeout(WAIT_MAX, self.sent.recv()).await.unwrap().unwrap();
        let header =
            |wanted: &str| message.headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.clone());
        assert_eq!((message.tenant.as_str(), message.url.as_str()), ("acme", "https://example.org/hook"));
        assert_eq!(header("content-type").as_deref(), Some("application/json"));
        let id = header("webhook-id").unwrap();
        let timestamp: i64 = header("webhook-timestamp").unwrap().parse().unwrap();
        assert!((jiff::Timestamp::now().as_second() - timestamp).abs() < 30);
        let secret = self.jobs.webhook_secret(&self.names.0).await.unwrap();
        let newest = Secret::parse(&secret.text).unwrap();
        let signed = header("webhook-signature").unwrap();
        let newest = signatures([&newest], &id, timestamp, &message.body);
        assert_eq!(signed.split(' ').next(), Some(newest.as_str()));
        assert_eq!(signed.split(' ').count(), 1 + usize::from(secret.previous_until.is_some()));
        (id, serde_json::from_slice(&message.body).unwrap())
    }

    async fn has(&self, key: String) -> bool {
        self.store.get(&key).await.unwrap().is_some()
    }

    async fn until(&self, what: &str, mut condition: impl AsyncFnMut(&Self) -> bool) {
        let waiting = async {
            while !condition(self).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(WAIT_MAX, waiting).await.is_ok(), "it never happened: {what}");
    }

    async fn delivered(&self, id: JobId) {
        self.until("it is delivered", async |service: &Self| !service.jobs.shared.state().deliveries.holds(id)).await;
        assert!(!self.has(keys::delivery(id)).await && !self.has(keys::dead_letter(id)).await);
    }

    async fn dead(&self, id: JobId) {
        self.until("it is given up", async |service: &Self| service.has(keys::dead_letter(id)).await).await;
        self.until("the try is over", async |service: &Self| !service.jobs.shared.state().deliveries.is_sending(id))
            .await;
        assert!(!self.has(keys::delivery(id)).await);
    }
}

#[tokio::test]
async fn each_end_is_told_once_as_the_status_shows_it() {
    let mut service = Service::start(JobSettings::default(), Vec::new()).await;
    let names = service.names.clone();
    for (input, state) in [("{\"a\": 1}", "COMPLETED"), ("\"fail\"", "FAILED"), ("\"late\"", "TIMED_OUT")] {
        let id = service.submit(input).await;
        let (message_id, body) = service.message().await;
        assert_eq!((message_id, body["status"].as_str()), (id.to_string(), Some(state)));
        let status = serde_json::to_value(service.jobs.status(&names, id).await.unwrap()).unwrap();
        assert_eq!(body, status);
        service.delivered(id).await;
    }
    service.jobs.pause(&names.0, None, true).await.unwrap();
    let (cancelled, purged) = (service.submit("1").await, service.submit("2").await);
    service.jobs.cancel(&names, cancelled).await.unwrap();
    let (id, body) = service.message().await;
    assert_eq!((id, &body["status"]), (cancelled.to_string(), &json!("CANCELLED")));
    assert_eq!(service.jobs.purge(&names).await.unwrap(), 1);
    assert_eq!(service.message().await.0, purged.to_string());
    service.delivered(purged).await;
    assert!(service.sent.try_recv().is_err(), "nothing is told twice");
}

#[tokio::test]
async fn a_failed_try_is_repeated_and_the_result_is_kept_meanwhile() {
    let later = Err(SendError::Failed("nobody listens".into()));
    let settings = JobSettings { result_s: 0, ..JobSettings::default() };
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let answers = vec![status(500), later, status(204)];
    let mut service = Service::over(SimulatedStore::new(1), folder, settings, 5, answers).await;
    let names = service.names.clone();
    let id = service.submit("7").await;
    let (first, body) = service.message().await;
    assert_eq!(service.message().await, (first, body), "the same message");
    // The third try is minutes later.
    service
        .until("it waits", async |service: &Service| {
            let (found, _) = service.jobs.deliveries(&names, None, None, 10).await.unwrap();
            found.iter().any(|view| view.tries == 2 && view.last_error.as_deref() == Some("nobody listens"))
        })
        .await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(service.has(keys::job(id)).await, "its result would have been removed by now");
    let view = service.jobs.redeliver(&names, id).await.unwrap();
    assert_eq!((view.status, view.tries), (DeliveryStatus::Pending, 2));
    service.message().await;
    service.delivered(id).await;
    service.until("its result is removed", async |service: &Service| !service.has(keys::job(id)).await).await;
}

#[tokio::test]
async fn what_is_gone_or_private_is_given_up_at_once_and_can_be_delivered_again() {
    let answers = vec![status(410), Err(SendError::Refused("a private address".into()))];
    let mut service = Service::start(JobSettings::default(), answers).await;
    let names = service.names.clone();
    let mut ids = Vec::new();
    for why in ["the receiver answered with status 410", "a private address"] {
        let id = service.submit("1").await;
        service.message().await;
        service.dead(id).await;
        let (dead, more) =
            service.jobs.deliveries(&names, Some(DeliveryStatus::Dead), ids.last().copied(), 10).await.unwrap();
        assert_eq!((dead.len(), more), (1, None));
        assert_eq!((dead[0].job.clone(), dead[0].last_error.as_deref()), (Some(id.to_string()), Some(why)));
        assert!(dead[0].died_at.is_some() && dead[0].next_at.is_none());
        ids.push(id);
    }
    let (page, more) = service.jobs.deliveries(&names, None, None, 1).await.unwrap();
    assert_eq!((page.len(), more), (1, Some(ids[0])));
    let elsewhere = (names.0.clone(), FunctionName::new("other").unwrap());
    assert!(matches!(service.jobs.redeliver(&elsewhere, ids[0]).await, Err(DeliveryError::NotFound)));
    service.jobs.redeliver(&names, ids[0]).await.unwrap();
    assert_eq!(service.message().await.0, ids[0].to_string());
    service.delivered(ids[0]).await;
    service.jobs.drop_delivery(&names, ids[1]).await.unwrap();
    assert!(matches!(service.jobs.drop_delivery(&names, ids[1]).await, Err(DeliveryError::NotFound)));
    assert!(!service.has(keys::dead_letter(ids[1])).await && service.sent.try_recv().is_err());
    assert!(service.jobs.deliveries(&names, None, None, 10).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn after_a_restart_what_was_not_delivered_is_and_nothing_else() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let answers = vec![status(200), status(410), status(500)];
    let mut service = Service::over(SimulatedStore::new(3), folder, JobSettings::default(), 1_000, answers).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(service.submit("1").await);
        service.message().await;
        let last = *ids.last().unwrap();
        service
            .until("the try is over", async |service: &Service| {
                !service.jobs.shared.state().deliveries.is_sending(last)
            })
            .await;
    }
    let secret = service.jobs.webhook_secret(&service.names.0).await.unwrap();
    let mut service = service.restart().await;
    assert_eq!(service.jobs.webhook_secret(&service.names.0).await.unwrap(), secret);
    assert_eq!(service.message().await.0, ids[2].to_string());
    service.delivered(ids[2]).await;
    let names = service.names.clone();
    let (dead, _) = service.jobs.deliveries(&names, Some(DeliveryStatus::Dead), None, 10).await.unwrap();
    assert_eq!(dead.iter().map(|view| view.job.clone()).collect::<Vec<_>>(), [Some(ids[1].to_string())]);
    assert!(service.sent.try_recv().is_err());
}

#[tokio::test]
async fn whatever_the_store_answers_each_message_is_sent_and_recorded() {
    let mut service = Service::start(JobSettings::default(), Vec::new()).await;
    // Made at its first use, which is another commit.
    service.jobs.webhook_secret(&service.names.0).await.unwrap();
    for fault in [Fault::Unavailable, Fault::Full, Fault::UnknownDone, Fault::UnknownNotDone] {
        service.jobs.pause(&service.names.0.clone(), None, true).await.unwrap();
        let id = service.submit("1").await;
        // The commit of the end succeeds, that of the delivery meets the fault.
        *service.told.fault.lock().unwrap() = Some((Arc::clone(&service.store), fault));
        service.jobs.cancel(&service.names, id).await.unwrap();
        assert_eq!(service.message().await.0, id.to_string());
        service.delivered(id).await;
        assert!(service.sent.try_recv().is_err(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_job_that_a_client_retries_is_told_anew_with_another_id() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let answers = vec![status(500)];
    let mut service = Service::over(SimulatedStore::new(1), folder, JobSettings::default(), 60_000, answers).await;
    let names = service.names.clone();
    let id = service.submit("\"fail\"").await;
    assert_eq!(service.message().await.0, id.to_string());
    service
        .until("the try is over", async |service: &Service| !service.jobs.shared.state().deliveries.is_sending(id))
        .await;
    service.jobs.retry(&names, id).await.unwrap();
    let (message_id, body) = service.message().await;
    assert_eq!((message_id, &body["status"]), (format!("{id}-1"), &json!("FAILED")));
    service.delivered(id).await;
    assert!(service.sent.try_recv().is_err(), "the first end is not told again");
}

#[tokio::test]
async fn a_secret_that_was_replaced_signs_too_for_a_day() {
    let mut service = Service::start(JobSettings::default(), Vec::new()).await;
    let tenant = service.names.0.clone();
    let first = service.jobs.webhook_secret(&tenant).await.unwrap();
    assert_eq!(service.jobs.webhook_secret(&tenant).await.unwrap(), first);
    let second = service.jobs.rotate_webhook_secret(&tenant).await.unwrap();
    assert!(second.text != first.text && second.previous_until.unwrap() > second.created);
    service.submit("1").await;
    service.message().await;
    let stored = service.store.get(&keys::webhook_secret(&tenant)).await.unwrap().unwrap();
    let stored = String::from_utf8(stored.value).unwrap();
    assert!(!stored.contains("whsec_") && !stored.contains(second.text.trim_start_matches("whsec_")), "encrypted");
    let other = service.jobs.webhook_secret(&TenantName::new("zoo").unwrap()).await.unwrap();
    assert_ne!(other.text, second.text);
    assert!(service.told.answers.lock().unwrap().is_empty());
}

fn event(id: Option<&str>, body: &'static [u8]) -> Event {
    let id = id.map(|id| ("webhook-id".to_owned(), id.to_owned()));
    Event { headers: Headers::new(id), query: Vec::new(), body: bytes::Bytes::from_static(body) }
}

#[tokio::test]
async fn a_delivery_to_a_hook_is_known_while_its_window_lasts_and_not_longer() {
    let service = Service::start(JobSettings { result_s: 0, ..JobSettings::default() }, Vec::new()).await;
    let (names, limits) = (service.names.clone(), JobLimits { queued: 100, bytes: 1 << 20 });
    let hook = async |text: &str| {
        let new = serde_json::from_str(text).unwrap();
        let made = service.jobs.make_hook(&names, new, 10).await.unwrap();
        let (name, token) = (HookName::new(&made.view.name).unwrap(), made.token.unwrap());
        service.jobs.open_hook((&names.0, &names.1), &name, token.text()).await.unwrap().unwrap()
    };
    let long = hook(r#"{"name": "long"}"#).await;
    let receive = async |hook: &OpenHook, event: Event| service.jobs.receive(hook, &event, limits).await;
    let first = receive(&long, event(Some("m1"), b"{}")).await.unwrap();
    service.until("its result is removed", async |service: &Service| !service.has(keys::job(first.id)).await).await;
    let again = receive(&long, event(Some("m1"), b"{}")).await.unwrap();
    assert_eq!((again.id, again.state), (first.id, None));
    let other = receive(&long, event(Some("m1"), b"[]")).await;
    assert!(matches!(other, Err(ReceiveError::Submit(SubmitError::OtherBody { job })) if job == first.id));
    let short = hook(r#"{"name": "short", "window_s": 1}"#).await;
    let first = receive(&short, event(None, b"{}")).await.unwrap();
    assert_eq!(receive(&short, event(None, b"{}")).await.unwrap().id, first.id);
    let over = async |_: &Service| receive(&short, event(None, b"{}")).await.unwrap().id != first.id;
    service.until("its window is over", over).await;
}

#[tokio::test]
async fn an_end_of_a_batch_that_a_crash_left_untold_is_told_at_the_next_start() {
    let mut service = Service::start(JobSettings::default(), Vec::new()).await;
    let names = service.names.clone();
    let items = NewItems {
        inputs: vec![b"1".to_vec(), b"\"fail\"".to_vec()],
        idempotency_key: None,
        limits: JobLimits { queued: 100, bytes: 1 << 20 },
    };
    let new = NewBatch { name: None, policy: Policy::default(), more: false, webhook: None, items };
    let id = JobId::parse(&service.jobs.make_batch(&names, new).await.unwrap().id).unwrap();
    let is_over = async |service: &Service| service.jobs.batch(&names, id).unwrap().counts.have_all_ended();
    service.until("it is over", is_over).await;
    // As if it had a webhook, and the server had ended before it was told.
    let found = service.store.get(&keys::batch(id)).await.unwrap().unwrap();
    let mut batch: Batch = serde_json::from_slice(&found.value).unwrap();
    batch.webhook = Some("https://example.org/hook".into());
    let (key, value) = (keys::batch(id), serde_json::to_vec(&batch).unwrap());
    service.store.commit(vec![Change::Put { key, value, expect: Expect::Any }]).await.unwrap();
    service = service.restart().await;
    let (message, body) = service.message().await;
    assert_eq!((message, &body["counts"]["total"]), (id.to_string(), &json!(2)));
    service.delivered(id).await;
    service = service.restart().await;
    assert!(service.sent.try_recv().is_err(), "it is told once");
    let view = service.jobs.redeliver(&names, id).await.unwrap();
    assert_eq!((view.batch, view.job), (Some(id.to_string()), None));
    assert_eq!(service.message().await.0, id.to_string());
    let again = service.jobs.retry_batch(&names, id).await.unwrap();
    assert_eq!(again.retried, 1);
    assert_eq!(service.message().await.0, format!("{id}-1"));
    service.delivered(id).await;
}
