//! What attempts of jobs tell of their progress.

use crate::support::{KEY, Server, wait_until};
use serde_json::{Value, json};

fn start() -> Server {
    let server = Server::start();
    let deployed = server.put(KEY, "task", "task", "[jobs]\nretries = 1\nbackoff_s = 0\nretry_on = [\"trap\"]\n", "");
    assert_eq!(deployed.status, 201, "{}", deployed.text());
    server
}

fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = server.send(method, &format!("/v2/task/{path}"), &[], text.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn submit(server: &Server, input: &Value) -> String {
    ask(server, "POST", "run", &json!({ "input": input }))["id"].as_str().unwrap().to_owned()
}

fn status(server: &Server, id: &str) -> Value {
    ask(server, "GET", &format!("status/{id}"), &Value::Null)
}

fn ended(server: &Server, id: &str) -> Value {
    let mut last = Value::Null;
    wait_until("the job has ended", || {
        last = ask(server, "GET", &format!("status-sync/{id}?wait=5000"), &Value::Null);
        !matches!(last["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS"))
    });
    last
}

#[test]
fn progress_is_the_output_of_a_running_job_and_the_result_takes_its_place() {
    let server = start();
    let told = json!({ "percent": 50, "what": "h\u{e4}lf" });
    let id = submit(&server, &json!({ "progress": [told], "every_ms": 1500 }));
    wait_until("the progress is seen", || {
        let now = status(&server, &id);
        assert!(matches!(now["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS")), "{now}");
        now["output"] == told
    });
    let done = ended(&server, &id);
    assert_eq!(done["status"], "COMPLETED", "{done}");
    assert_eq!(done["output"], json!({ "job": id, "attempt": 1 }), "what the function sees of its job");
}

#[test]
fn fast_progress_costs_no_time_and_never_goes_back() {
    let server = start();
    let all: Vec<u32> = (0..400).collect();
    let id = submit(&server, &json!({ "progress": all, "every_ms": 5 }));
    let (mut seen, mut last) = (Vec::new(), Value::Null);
    wait_until("the job has ended", || {
        last = status(&server, &id);
        if last["status"] == "IN_PROGRESS" {
            seen.extend(last["output"].as_u64());
        }
        last["status"] == "COMPLETED"
    });
    seen.dedup();
    assert!(seen.is_sorted() && seen.len() > 5, "{seen:?}");
    // Waiting 50 ms for each would take 20 s.
    let took = last["executionTime"].as_u64().unwrap();
    assert!(seen.len() < 200, "{} of 400 were sent in {took} ms", seen.len());
}

#[test]
fn progress_behind_the_end_of_a_job_or_without_a_job_is_refused() {
    let server = start();
    let id = submit(&server, &json!({ "late": "too late" }));
    let done = ended(&server, &id);
    assert_eq!((&done["status"], &done["output"]["attempt"]), (&json!("COMPLETED"), &json!(1)), "{done}");
    let request = done["requestId"].as_str().unwrap().to_owned();
    wait_until("the guest has told more behind its answer", || {
        let lines = server.get_json(&format!("/api/v1/functions/task/logs?request={request}")).to_string();
        lines.contains("told late: Err(NotAJob)")
    });
    assert_eq!(status(&server, &id), done);
    // A cancelled job keeps nothing of it.
    let id = submit(&server, &json!({ "progress": ["half"], "every_ms": 60_000 }));
    wait_until("the progress is seen", || status(&server, &id)["output"] == "half");
    ask(&server, "POST", &format!("cancel/{id}"), &Value::Null);
    let cancelled = status(&server, &id);
    assert_eq!((&cancelled["status"], &cancelled["output"]), (&json!("CANCELLED"), &Value::Null), "{cancelled}");
    for input in [json!({ "progress": [1] }), json!({ "late": "x" })] {
        let body = json!({ "id": "no job", "input": input }).to_string();
        let answer = server.call("task", "/", body.as_bytes());
        assert!(answer.status == 500 && answer.text().contains("no attempt of a job"), "{}", answer.text());
    }
}

#[test]
fn progress_that_is_too_long_is_an_error_for_the_function() {
    let server = start();
    let fits = "x".repeat((64 << 10) - 2);
    assert_eq!(ended(&server, &submit(&server, &json!({ "progress": [fits] })))["status"], "COMPLETED");
    let failed = ended(&server, &submit(&server, &json!({ "progress": [fits + "x"] })));
    assert_eq!(failed["status"], "FAILED", "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("progress of 65537 bytes; the limit is 65536"), "{failed}");
}
