//! Who may use the job API: keys without the scope, for another function, of another tenant, and of a suspended one.

use crate::support::jobs::{JobApi, refused};
use crate::support::{Options, Server};
use serde_json::{Value, json};

/// A function with jobs of all kinds, and a queue that is paused.
struct Known {
    /// It has ended, and its webhook could not be delivered.
    told: String,
    waiting: String,
    /// Its item waits.
    batch: String,
}

impl Known {
    fn make(jobs: &JobApi<'_>) -> Self {
        let body = json!({ "input": { "trap_before": 9 }, "webhook": "http://127.0.0.1:9/" });
        let told = jobs.submit_body(&body);
        assert_eq!(jobs.ended(&told)["status"], "FAILED");
        jobs.get("POST", "pause", &Value::Null);
        let batch = jobs.get("POST", "batches", &json!({ "inputs": [{ "say": 1 }], "more": true }));
        let batch = batch["id"].as_str().unwrap().to_owned();
        let known = Self { told, waiting: jobs.submit(&json!({ "say": 1 })), batch };
        crate::support::wait_until("the webhook was given up", || known.dead(jobs).len() == 1);
        known
    }

    fn dead(&self, jobs: &JobApi<'_>) -> Vec<Value> {
        let listed = jobs.get("GET", "webhooks?status=dead", &Value::Null);
        let all = listed["webhooks"].as_array().unwrap().iter();
        all.filter(|dead| dead["job"] == self.told).cloned().collect()
    }

    /// The calls that name a job, a batch or a delivery, and the code if there is none.
    fn calls_with_ids(&self) -> Vec<(&'static str, String, &'static str)> {
        let Self { told, waiting, batch } = self;
        let mut all: Vec<_> = ["status", "status-sync", "stream"]
            .into_iter()
            .map(|call| ("GET", format!("{call}/{told}"), "job_not_found"))
            .collect();
        all.extend([
            ("GET", format!("jobs/{told}/logs"), "job_not_found"),
            ("POST", format!("cancel/{waiting}"), "job_not_found"),
            ("POST", format!("webhooks/{told}/redeliver"), "webhook_not_found"),
            ("DELETE", format!("webhooks/{told}"), "webhook_not_found"),
            ("GET", format!("batches/{batch}"), "batch_not_found"),
            ("GET", format!("batches/{batch}/results"), "batch_not_found"),
        ]);
        let changes = ["items", "close", "cancel", "retry"];
        all.extend(changes.into_iter().map(|call| ("POST", format!("batches/{batch}/{call}"), "batch_not_found")));
        // Last, because it takes back what the others are about.
        all.push(("POST", format!("retry/{told}"), "job_not_found"));
        all
    }

    /// All calls that need the scope `invoke`.
    fn calls(&self) -> Vec<(&'static str, String)> {
        let named = self.calls_with_ids().into_iter().map(|(method, path, _)| (method, path));
        let posts = ["run", "runsync", "purge-queue", "pause", "resume", "batches"].map(|path| ("POST", path.into()));
        let reads = ["health", "jobs", "webhooks", "batches"].map(|path| ("GET", path.into()));
        named.chain(posts).chain(reads).collect()
    }

    /// Checks that nothing of it was changed.
    fn is_unchanged(&self, jobs: &JobApi<'_>) {
        assert_eq!(jobs.status(&self.told)["status"], "FAILED");
        let waiting = jobs.status(&self.waiting);
        assert_eq!((&waiting["status"], &waiting["waitReason"]), (&json!("IN_QUEUE"), &json!("paused")), "{waiting}");
        let batch = jobs.get("GET", &format!("batches/{}", self.batch), &Value::Null);
        assert_eq!((&batch["more"], &batch["counts"]["in_queue"]), (&json!(true), &json!(1)), "{batch}");
        assert_eq!(self.dead(jobs).len(), 1);
        let all = jobs.get("GET", "jobs", &Value::Null);
        assert_eq!(all["jobs"].as_array().unwrap().len(), 3, "nothing was submitted: {all}");
        assert_eq!(jobs.get("GET", "batches", &Value::Null)["batches"].as_array().unwrap().len(), 1);
    }
}

/// The body of a call, if it has one.
fn body_of(path: &str) -> Value {
    match path {
        "run" | "runsync" => json!({ "input": { "say": 1 } }),
        "batches" => json!({ "inputs": [{ "say": 1 }] }),
        items if items.ends_with("/items") => json!({ "inputs": [{ "say": 1 }] }),
        _ => Value::Null,
    }
}

const TASK: &str = "[jobs]\nretries = 0\n";

/// A server with a tenant, whose key is returned, with a function that needs a key, one that is public, and another one.
fn start() -> (Server, String) {
    let server = Server::start_with(&Options { not_dev: true, config: Some("spares = 0\n"), ..Options::default() });
    let acme = server.tenant("acme", &json!({}));
    for (name, more) in [("task", ""), ("open", "[http]\npublic = true\n"), ("other", "")] {
        let deployed = server.put(&acme, "task", name, &format!("{TASK}{more}"), "");
        assert_eq!(deployed.status, 201, "{}", deployed.text());
    }
    (server, acme)
}

#[test]
fn keys_without_the_scope_or_for_another_function_are_403_and_change_nothing() {
    let (server, acme) = start();
    let key = |new: Value| {
        let made = server.control(&acme, "POST", "tenants/acme/keys", &new);
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["key"].as_str().unwrap().to_owned()
    };
    let [read, deploy, invoke, bound] = [
        json!({ "scopes": ["read"] }),
        json!({ "scopes": ["deploy", "admin"] }),
        json!({ "scopes": ["invoke"] }),
        json!({ "function": "other" }),
    ]
    .map(key);
    for function in ["task", "open"] {
        let own = JobApi { server: &server, key: &acme, function };
        let known = Known::make(&own);
        let cases = [(&read, "the scope \"invoke\""), (&deploy, "the scope \"invoke\""), (&bound, "other only")];
        for (key, why) in cases {
            for (method, path) in known.calls() {
                let answer = JobApi { key, ..own }.ask(method, &path, &body_of(&path));
                assert_eq!(answer.status, 403, "{function}: {method} {path}: {}", answer.text());
                refused(&answer, 403, "forbidden", why);
            }
        }
        for (method, path) in known.calls() {
            let answer = server.send_bare(method, &format!("/v2/{function}/{path}"), &[], b"");
            assert_eq!(answer.status, 401, "{function}: {method} {path}: {}", answer.text());
        }
        // The log shows more than the result does.
        let log = format!("jobs/{}/logs", known.told);
        refused(&JobApi { key: &invoke, ..own }.ask("GET", &log, &Value::Null), 403, "forbidden", "the scope \"read\"");
        assert_eq!(JobApi { key: &invoke, ..own }.status(&known.told)["status"], "FAILED");
        known.is_unchanged(&own);
    }
}

#[test]
fn what_belongs_to_another_tenant_or_function_is_404_and_stays_as_it_is() {
    let (server, acme) = start();
    let zoo = server.tenant("zoo", &json!({}));
    assert_eq!(server.put(&zoo, "task", "task", TASK, "").status, 201);
    let own = JobApi { server: &server, key: &acme, function: "task" };
    let known = Known::make(&own);
    let others = [JobApi { key: &zoo, ..own }, JobApi { function: "other", ..own }, JobApi { function: "open", ..own }];
    for other in others {
        for (method, path, code) in known.calls_with_ids() {
            let answer = other.ask(method, &path, &body_of(&path));
            assert_eq!(answer.status, 404, "{}: {method} {path}: {}", other.function, answer.text());
            refused(&answer, 404, code, "");
        }
        for (path, list) in [("jobs", "jobs"), ("batches", "batches"), ("webhooks", "webhooks")] {
            assert_eq!(other.get("GET", path, &Value::Null)[list], json!([]), "{}: {path}", other.function);
        }
        assert_eq!(other.get("POST", "purge-queue", &Value::Null)["removed"], 0);
    }
    known.is_unchanged(&own);
    // For their owner, the same ids are known by each of the calls.
    for (method, path, _) in known.calls_with_ids() {
        let answer = own.ask(method, &path, &body_of(&path));
        assert!(answer.status == 200 || answer.status == 409, "{method} {path}: {}", answer.text());
    }
}

#[test]
fn a_suspended_tenants_jobs_are_kept_and_no_call_reaches_them() {
    let (server, acme) = start();
    let own = JobApi { server: &server, key: &acme, function: "task" };
    let known = Known::make(&own);
    let operator = server.operator();
    assert_eq!(server.control(&operator, "POST", "tenants/acme/suspend", &Value::Null).status, 200);
    for (method, path) in known.calls() {
        let answer = own.ask(method, &path, &body_of(&path));
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
        refused(&answer, 403, "tenant_suspended", "the tenant is suspended");
    }
    assert_eq!(server.control(&operator, "POST", "tenants/acme/resume", &Value::Null).status, 200);
    known.is_unchanged(&own);
    own.get("POST", "resume", &Value::Null);
    assert_eq!(own.ended(&known.waiting)["status"], "COMPLETED");
}
