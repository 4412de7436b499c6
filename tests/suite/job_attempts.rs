//! Attempts that cannot begin, are given up or are interrupted: what their jobs say meanwhile, and what becomes of them.

use crate::support::jobs::JobApi;
use crate::support::{KEY, Options, Server, ledger, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::{Value, json};
use std::path::Path;

const PRICES: &str = "spares = 0\n[prices]\ncpu_micro_units_per_s = 1000000\ngpu_micro_units_per_s = 1000000\n";

fn start(data: Option<&Path>, config: &str) -> Server {
    Server::start_with(&Options { data, config: Some(config), ..Options::default() })
}

fn deploy(server: &Server, manifest: &str) {
    let deployed = server.put(KEY, "task", "task", manifest, "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

fn api(server: &Server) -> JobApi<'_> {
    JobApi { server, key: KEY, function: "task" }
}

/// Sets how many threads the users of new workers may have. With none, a worker is started, and ends before it is ready.
fn limit_threads(server: &Server, current: Option<u64>) {
    let server = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    prlimit(server, Resource::Nproc, Rlimit { current, maximum: getrlimit(Resource::Nproc).maximum }).unwrap();
}

#[test]
fn a_job_whose_workers_die_at_their_start_waits_says_so_and_runs_once_one_lives() {
    let server = start(None, PRICES);
    deploy(&server, "");
    limit_threads(&server, Some(0));
    let jobs = api(&server);
    let id = jobs.submit(&json!({ "say": "x" }));
    let (mut waiting, mut was_started) = (Value::Null, false);
    wait_until("it has failed three times", || {
        was_started |= !server.children("__worker").is_empty();
        waiting = jobs.status(&id);
        waiting["waitReason"] == "crash_loop"
    });
    assert_eq!((&waiting["status"], &waiting["errorCode"]), (&json!("IN_QUEUE"), &json!("function_cannot_start")));
    assert!(waiting["error"].as_str().unwrap().contains("no worker could be started"), "{waiting}");
    wait_until("a worker was started and has ended", || {
        was_started |= !server.children("__worker").is_empty();
        was_started
    });
    let mut health = Value::Null;
    wait_until("the function says so", || {
        health = jobs.health();
        health["waitReason"] == "crash_loop"
    });
    assert_eq!(
        (&health["lastError"], &health["workers"]["unhealthy"]),
        (&json!("no worker could be started"), &json!(1))
    );
    limit_threads(&server, getrlimit(Resource::Nproc).current);
    let done = jobs.ended(&id);
    assert_eq!((&done["status"], &done["output"]["said"]), (&json!("COMPLETED"), &json!("x")), "{done}");
    let receipt = jobs.billed(&done["requestId"]);
    let usage = server.get_json("/api/v1/usage");
    assert_eq!(usage["total"]["micro_units"], receipt["cost_micro_units"], "the others cost nothing: {usage}");
    assert!(jobs.health()["waitReason"].is_null());
    assert_eq!(server.terminate(), Some(0));
    // Each of them is in the ledger.
    let of_job = ledger::receipts(&server.data).into_iter().filter(|receipt| receipt["job"] == id);
    let mut attempts: Vec<u64> = of_job.map(|receipt| receipt["attempt"].as_u64().unwrap()).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, (1..=done["attempt"].as_u64().unwrap()).collect::<Vec<_>>());
    assert!(attempts.len() > 3, "{attempts:?}");
}

#[test]
fn an_attempt_that_was_given_up_is_ended_and_nothing_of_it_is_stored() {
    let server = start(None, PRICES);
    deploy(&server, "[limits]\nconcurrency = 1\n[jobs]\nretries = 3\nbackoff_s = 0\n");
    let jobs = api(&server);
    // Both would have a result within seconds.
    let cancelled = jobs.submit(&json!({ "progress": ["half"], "every_ms": 3_000 }));
    let first = jobs.running(&cancelled)["requestId"].clone();
    wait_until("it has begun", || jobs.status(&cancelled)["output"] == "half");
    jobs.get("POST", &format!("cancel/{cancelled}"), &Value::Null);
    let input = json!({ "stream": 20, "every_ms": 1_000 });
    let late = jobs.submit_body(&json!({ "input": input, "policy": { "ttl": 10_000 } }));
    let second = jobs.running(&late)["requestId"].clone();
    assert_eq!(jobs.ended(&late)["errorCode"], "ttl_exceeded");
    for (id, request, state) in [(&cancelled, &first, "CANCELLED"), (&late, &second, "TIMED_OUT")] {
        let receipt = jobs.billed(request);
        assert_eq!((&receipt["job"], &receipt["attempt"]), (&json!(id), &json!(1)), "{receipt}");
        assert_eq!(receipt["error"], "client_closed", "it did not end by itself: {receipt}");
        let status = jobs.status(id);
        assert_eq!((&status["status"], &status["output"]), (&json!(state), &Value::Null), "{status}");
    }
    // Its permit is free: the function has only one.
    assert_eq!(jobs.in_flight(), 0);
    let next = jobs.ended(&jobs.submit(&json!({ "sleep_ms": 3_000 })));
    assert_eq!(next["status"], "COMPLETED");
    for (id, state) in [(&cancelled, "CANCELLED"), (&late, "TIMED_OUT")] {
        let status = jobs.status(id);
        assert_eq!((&status["status"], &status["output"]), (&json!(state), &Value::Null), "{status}");
        assert_eq!(status["attempt"], 1, "{status}");
    }
}

#[test]
fn an_interrupted_job_goes_first_after_each_restart_however_often_it_was_interrupted() {
    let folder = tempfile::TempDir::new().unwrap();
    let data = folder.path().join("data");
    let mut server = start(Some(&data), "spares = 1\n");
    deploy(&server, "[jobs]\nconcurrency = 1\nretries = 0\nbackoff_s = 3600\n");
    // The first attempt was taken, and its function not yet loaded.
    wait_until("a spare is there", || server.metric("spares") == 1);
    let [spare] = server.children("__worker")[..] else { panic!("one spare") };
    kill_process(Pid::from_raw(spare).unwrap(), Signal::STOP).unwrap();
    let id = api(&server).submit(&json!({ "sleep_ms": 2_000 }));
    let mut status = Value::Null;
    wait_until("it waits for the load", || {
        status = api(&server).status(&id);
        status["status"] == "IN_PROGRESS" && status["waitReason"] == "loading"
    });
    for attempt in 1..=4 {
        assert_eq!(status["attempt"], attempt, "{status}");
        server.kill();
        server = start(Some(&data), "spares = 1\n");
        status = api(&server).running(&id);
    }
    // A delay after the fourth fault would be 8 s. This one is second, because one runs at a time.
    let jobs = api(&server);
    let behind = jobs.submit(&json!({ "say": "behind" }));
    assert_eq!(jobs.ended(&behind)["status"], "COMPLETED");
    let done = jobs.status(&id);
    assert_eq!((&done["status"], &done["attempt"]), (&json!("COMPLETED"), &json!(5)), "{done}");
}
