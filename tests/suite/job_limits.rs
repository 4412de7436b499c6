//! Limits of jobs at their exact values: bytes of a tenant's jobs, bodies, outputs, and what a tenant may use.

use crate::support::jobs::{JobApi, refused};
use crate::support::{KEY, Options, Server, wait_until};
use serde_json::{Value, json};

fn deploy(server: &Server, key: &str, manifest: &str) {
    let deployed = server.put(key, "task", "task", manifest, "");
    assert_eq!(deployed.status, 201, "{}", deployed.text());
}

/// What each job counts for beside its input.
const JOB_BYTES: usize = 1024;

#[test]
fn the_bytes_of_a_tenants_jobs_are_limited_to_the_byte() {
    let server = Server::start_with(&Options { not_dev: true, config: Some("spares = 0\n"), ..Options::default() });
    let key = server.tenant("acme", &json!({ "jobs_mib": 2 }));
    deploy(&server, &key, "");
    let jobs = JobApi { server: &server, key: &key, function: "task" };
    jobs.get("POST", "pause", &Value::Null);
    // An input is a text with its quotes.
    let of = |bytes: usize| json!("x".repeat(bytes - 2));
    let run = |input: &Value| jobs.ask("POST", "run", &json!({ "input": input }));
    refused(&run(&of((2 << 20) - JOB_BYTES + 1)), 429, "tenant_limit", "jobs_mib = 2; in use: 0");
    let first = run(&of(1 << 20));
    assert_eq!(first.status, 200, "{}", first.text());
    let rest = (1 << 20) - 2 * JOB_BYTES;
    let over = run(&of(rest + 1));
    refused(&over, 429, "tenant_limit", "jobs_mib = 2; in use: 1");
    assert_eq!(over.header("retry-after"), "5");
    let batch = |inputs: &[Value]| jobs.ask("POST", "batches", &json!({ "inputs": inputs }));
    let half = rest / 2;
    refused(&batch(&[of(half), of(half)]), 429, "tenant_limit", "jobs_mib = 2; in use: 1");
    assert_eq!(jobs.get("GET", "batches", &Value::Null)["batches"], json!([]), "nothing of it is kept");
    let exact = run(&of(rest));
    assert_eq!(exact.status, 200, "{}", exact.text());
    refused(&run(&json!(1)), 429, "tenant_limit", "jobs_mib = 2; in use: 2");
    assert_eq!(jobs.get("GET", "jobs", &Value::Null)["jobs"].as_array().unwrap().len(), 2);
    // With another limit it goes on at once.
    let patch = json!({ "jobs_mib": 3 });
    assert_eq!(server.control(&server.operator(), "PATCH", "tenants/acme/limits", &patch).status, 200);
    assert_eq!(run(&json!(1)).status, 200);
}

#[test]
fn the_body_of_a_batch_may_have_exactly_20_mib() {
    let server = Server::start();
    deploy(&server, KEY, "");
    let jobs = JobApi { server: &server, key: KEY, function: "task" };
    jobs.get("POST", "pause", &Value::Null);
    let limit = 20 << 20;
    let object = |bytes: usize| format!("{{\"inputs\":[\"{}\"],\"more\":true}}", "x".repeat(bytes - 27));
    let line = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    assert_eq!((object(100).len(), line(100).len()), (100, 100));
    let lines = [("content-type", "application/x-ndjson")];
    let made = jobs.send("POST", "batches", &[], object(limit).as_bytes());
    assert_eq!((made.status, &made.json()["counts"]["in_queue"]), (200, &json!(1)), "{}", made.text());
    let items = format!("batches/{}/items", made.json()["id"].as_str().unwrap());
    let added = jobs.send("POST", &items, &lines, line(limit).as_bytes());
    assert_eq!((added.status, &added.json()["counts"]["total"]), (200, &json!(2)), "{}", added.text());
    for path in ["batches", &items] {
        for answer in [
            jobs.send("POST", path, &[], object(limit + 1).as_bytes()),
            jobs.send("POST", path, &lines, line(limit + 1).as_bytes()),
        ] {
            refused(&answer, 413, "body_too_large", "20971520");
            assert!(answer.json()["hint"].is_null(), "no setting of the manifest raises it: {}", answer.text());
        }
    }
    let listed = jobs.get("GET", "batches", &Value::Null);
    assert_eq!((&listed["batches"][0]["counts"]["total"], &listed["batches"][1]), (&json!(2), &Value::Null));
}

#[test]
fn an_output_may_have_exactly_20_mib() {
    let server = Server::start();
    deploy(&server, KEY, "[limits]\nmemory_mib = 256\n[jobs]\nretries = 0\n");
    let jobs = JobApi { server: &server, key: KEY, function: "task" };
    // The output is an object with one text.
    let text = (20 << 20) - r#"{"large":""}"#.len();
    let whole = jobs.ended(&jobs.submit(&json!({ "large": text })));
    assert_eq!(whole["status"], "COMPLETED", "{} {}", whole["error"], whole["errorCode"]);
    assert_eq!(whole["output"]["large"].as_str().unwrap().len(), text);
    let failed = jobs.ended(&jobs.submit(&json!({ "large": text + 1 })));
    assert_eq!((&failed["status"], &failed["errorCode"]), (&json!("FAILED"), &json!("output_too_large")), "{failed}");
    assert_eq!(
        (&failed["error"], &failed["output"]),
        (&json!("the output is larger than 20971520 bytes"), &Value::Null)
    );
}

/// Waits until a job waits because a limit is used up, and checks that the function says so too.
#[track_caller]
fn waits_for_the_quota(jobs: &JobApi<'_>, id: &str) {
    let mut status = Value::Null;
    wait_until("the job says that it waits for a limit", || {
        status = jobs.status(id);
        status["waitReason"] == "quota"
    });
    assert_eq!(status["status"], "IN_QUEUE", "{status}");
    let mut health = Value::Null;
    wait_until("the function says so", || {
        health = jobs.health();
        health["waitReason"] == "quota"
    });
    assert_eq!((&health["jobs"]["inQueue"], &health["workers"]["throttled"]), (&json!(1), &json!(1)), "{health}");
}

#[test]
fn a_job_waits_for_a_limit_that_is_used_up_says_so_and_runs_when_it_is_raised() {
    let prices = "spares = 0\n[prices]\ncpu_micro_units_per_s = 1000000\n";
    let server = Server::start_with(&Options { not_dev: true, config: Some(prices), ..Options::default() });
    let key = server.tenant("acme", &json!({}));
    let set = |limits: Value| {
        let patched = server.control(&server.operator(), "PATCH", "tenants/acme/limits", &limits);
        assert_eq!(patched.status, 200, "{}", patched.text());
    };
    assert_eq!(server.put(&key, "hook", "hook", "[jobs]\nretries = 0\n", "").status, 201);
    let jobs = JobApi { server: &server, key: &key, function: "hook" };
    let input = json!({ "encoding": "text", "body": "1 2 3" });
    let run = || jobs.submit(&input);
    assert_eq!(jobs.ended(&run())["status"], "COMPLETED");

    set(json!({ "gpu_ms_per_day": 0 }));
    let waiting = run();
    waits_for_the_quota(&jobs, &waiting);
    set(json!({ "gpu_ms_per_day": null }));
    let done = jobs.ended(&waiting);
    assert_eq!((&done["status"], &done["waitReason"]), (&json!("COMPLETED"), &Value::Null), "{done}");

    // What was spent so far is more than this.
    set(json!({ "spend_micro_units_per_month": 1 }));
    let waiting = run();
    waits_for_the_quota(&jobs, &waiting);
    set(json!({ "spend_micro_units_per_month": null }));
    // Money is looked at again after half a minute, and at once when another job comes.
    for id in [&run(), &waiting] {
        let done = jobs.ended(id);
        assert_eq!((&done["status"], &done["errorCode"]), (&json!("COMPLETED"), &Value::Null), "{done}");
    }
    assert!(jobs.health()["waitReason"].is_null());
}
