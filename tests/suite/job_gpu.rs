//! Jobs that work on the GPU for long: a cancel ends them between two slices, and they pay for what was done.

use crate::support::jobs::JobApi;
use crate::support::{KEY, Options, Server, ledger, wait_until};
use serde_json::{Value, json};
use std::time::Instant;

/// A millisecond of work costs 1,000 micro-units.
const CONFIG: &str = "spares = 0\n[prices]\ncpu_micro_units_per_s = 1000000\ngpu_micro_units_per_s = 1000000\n";
/// Calls the function until its work is done, and returns the receipt.
fn called(server: &Server, path: &str) -> Value {
    let answer = server.call("measure", path, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    server.receipt(&answer)
}

#[test]
fn a_cancelled_job_leaves_the_gpu_at_its_next_slice_and_its_worker_serves_on() {
    let server = Server::start_with(&Options { config: Some(CONFIG), ..Options::default() });
    let limits = "[limits]\ngpu_time_ms = 60000\ntimeout_ms = 60000\n";
    assert_eq!(server.put(KEY, "measure", "measure", limits, "").status, 201);
    let jobs = JobApi { server: &server, key: KEY, function: "measure" };
    let round_ns = called(&server, "/matmul?rounds=1")["gpu_ns"].as_u64().unwrap();
    let [worker] = server.children("__worker")[..] else { panic!("one worker") };
    // A job reaches this path by a schedule. Without a cancel it would take seconds on any GPU.
    let schedule = json!({ "name": "long", "cron": "@yearly", "path": "/matmul?rounds=10000" });
    jobs.get("POST", "schedules", &schedule);
    let holder = || server.control(&server.operator(), "GET", "gpus", &Value::Null).json()["gpus"][0]["holder"].clone();
    let began = Instant::now();
    let id = jobs.get("POST", "schedules/long/run", &Value::Null)["id"].as_str().unwrap().to_owned();
    let request = jobs.running(&id)["requestId"].clone();
    wait_until("the job is on the gpu", || holder() == "dev");
    assert_eq!(jobs.get("POST", &format!("cancel/{id}"), &Value::Null)["status"], "CANCELLED");
    let receipt = jobs.billed(&request);
    let elapsed_ns = began.elapsed().as_nanos();
    wait_until("nobody holds the gpu", || holder().is_null());

    let number = |name: &str| receipt[name].as_u64().unwrap();
    assert_eq!(
        (&receipt["job"], &receipt["attempt"], &receipt["error"]),
        (&json!(id), &json!(1), &json!("client_closed"))
    );
    assert!(number("gpu_ns") > 0 && u128::from(number("gpu_ns")) <= elapsed_ns, "{receipt}");
    // On the software driver one round takes seconds and is one submission, so the job was ended within that.
    assert!(number("gpu_ns") < round_ns.max(1_000_000_000), "it went on after the cancel: {receipt}");
    let used_ms = number("gpu_ns").div_ceil(1_000_000) + number("guest_us").div_ceil(1_000);
    assert_eq!(number("cost_micro_units"), used_ms * 1_000, "{receipt}");
    let status = jobs.status(&id);
    assert_eq!((&status["status"], &status["output"]), (&json!("CANCELLED"), &Value::Null), "{status}");

    let next = called(&server, "/small?rounds=1");
    assert_eq!((&next["start"], server.children("__worker")), (&json!("hot"), vec![worker]), "{next}");
    assert_eq!(jobs.in_flight(), 0);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(ledger::lines_of(&server.data, &request), 1);
}
