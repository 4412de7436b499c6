//! Background jobs through Runpod's job API: states, results, retries, limits, and what must never be lost.

use crate::support::{KEY, Options, Response, Server, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const TASK: &str = "[jobs]\nretries = 2\nbackoff_s = 0\nretry_on = [\"killed\", \"platform\", \"trap\"]\n";

/// Deploys `task` for the development tenant.
fn deploy_task(server: &Server, manifest: &str) {
    let deployed = server.put(KEY, "task", "task", manifest, "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

fn start() -> Server {
    let server = Server::start();
    deploy_task(&server, TASK);
    server
}

/// Sends a request to the job API of `task`.
fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Response {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    server.send(method, &format!("/v2/task/{path}"), &[], text.as_bytes())
}

/// Submits a job and returns its id.
fn submit(server: &Server, body: &Value) -> String {
    let answer = ask(server, "POST", "run", body);
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("IN_QUEUE")), "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn status(server: &Server, id: &str) -> Value {
    let answer = ask(server, "GET", &format!("status/{id}"), &Value::Null);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Waits until a job has ended.
fn ended(server: &Server, id: &str) -> Value {
    loop {
        let answer = ask(server, "GET", &format!("status-sync/{id}?wait=20000"), &Value::Null).json();
        if !matches!(answer["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS")) {
            return answer;
        }
    }
}

fn run(server: &Server, input: &Value) -> Value {
    ended(server, &submit(server, &json!({ "input": input })))
}

/// Waits until an attempt of a job runs.
fn running(server: &Server, id: &str) {
    wait_until("the job runs", || status(server, id)["status"] == "IN_PROGRESS");
}

#[test]
fn a_job_is_accepted_runs_and_keeps_its_result_and_its_receipt() {
    let server = start();
    let id = submit(&server, &json!({ "input": { "say": "x" } }));
    let done = ended(&server, &id);
    assert_eq!(
        (&done["status"], &done["output"]["said"], &done["attempt"]),
        (&json!("COMPLETED"), &json!("x"), &json!(1))
    );
    assert!(done["delayTime"].is_u64() && done["executionTime"].is_u64(), "{done}");
    assert_eq!(status(&server, &id), done, "as often as it is asked for");
    let receipt = server.get_json(&format!("/api/v1/requests/{}", done["requestId"].as_str().unwrap()));
    assert_eq!((&receipt["job"], &receipt["attempt"], &receipt["status"]), (&json!(id), &json!(1), &json!(200)));
    // The function sees the job in its body and in its headers.
    let seen = run(&server, &json!({ "seen": true }));
    assert_eq!((&seen["output"]["body_id"], &seen["output"]["attempt"]), (&seen["id"], &json!(1)));
    assert_eq!(seen["output"]["header_id"], seen["id"]);
    let sync = ask(&server, "POST", "runsync", &json!({ "input": { "say": 1 } })).json();
    assert_eq!((&sync["status"], &sync["output"]["said"]), (&json!("COMPLETED"), &json!(1)));
    let slow = ask(&server, "POST", "runsync?wait=1000", &json!({ "input": { "sleep_ms": 3000 } })).json();
    assert_eq!(slow.as_object().unwrap().len(), 2, "only id and status: {slow}");
    assert_eq!(ended(&server, slow["id"].as_str().unwrap())["output"]["slept_ms"], 3000);
    let health = ask(&server, "GET", "health", &Value::Null).json();
    assert_eq!((&health["jobs"]["completed"], &health["jobs"]["failed"]), (&json!(4), &json!(0)), "{health}");
}

#[test]
fn errors_of_a_function_fail_its_job_and_are_never_an_output() {
    let server = start();
    for (input, code, why) in [
        (json!({ "fail": "because" }), "function_error", "because"),
        (json!({ "error": "in the output" }), "function_error", "in the output"),
        (json!({ "trap_before": 9 }), "function_trapped", "wasm trap"),
        (json!({ "large": 21 << 20 }), "output_too_large", "larger than 20971520 bytes"),
    ] {
        let failed = run(&server, &input);
        assert_eq!((&failed["status"], &failed["errorCode"]), (&json!("FAILED"), &json!(code)), "{failed}");
        assert!(failed["error"].as_str().unwrap().contains(why) && failed["output"].is_null(), "{failed}");
    }
    let large = run(&server, &json!({ "large": 1 << 20 }));
    assert_eq!(large["output"]["large"].as_str().unwrap().len(), 1 << 20, "a large output is kept whole");
}

#[test]
fn an_attempt_that_traps_is_repeated_and_a_failed_job_can_be_retried_by_hand() {
    let server = start();
    let third = run(&server, &json!({ "trap_before": 3, "tell_attempt": true }));
    assert_eq!((&third["status"], &third["output"]["attempt"]), (&json!("COMPLETED"), &json!(3)), "{third}");
    let failed = run(&server, &json!({ "trap_before": 4, "tell_attempt": true }));
    assert_eq!((&failed["status"], &failed["attempt"]), (&json!("FAILED"), &json!(3)), "two retries: {failed}");
    let id = failed["id"].as_str().unwrap();
    let again = ask(&server, "POST", &format!("retry/{id}"), &Value::Null).json();
    assert_eq!((&again["id"], &again["status"]), (&json!(id), &json!("IN_QUEUE")));
    let done = ended(&server, id);
    assert_eq!((&done["status"], &done["output"]["attempt"]), (&json!("COMPLETED"), &json!(4)));
    let refused = ask(&server, "POST", &format!("retry/{id}"), &Value::Null);
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("job_not_retryable")));
    assert!(refused.json()["status"].is_null(), "clients would take it for the state of a job");
}

#[test]
fn a_stream_gives_each_part_once_and_all_of_them_as_the_output() {
    let server = start();
    let id = submit(&server, &json!({ "input": { "stream": 3, "every_ms": 50 } }));
    let (mut parts, mut state) = (Vec::new(), String::new());
    while state != "COMPLETED" {
        let read = ask(&server, "GET", &format!("stream/{id}"), &Value::Null).json();
        parts.extend(read["stream"].as_array().unwrap().iter().map(|part| part["output"]["n"].as_u64().unwrap()));
        state = read["status"].as_str().unwrap().to_owned();
    }
    assert_eq!(parts, [1, 2, 3]);
    let more = ask(&server, "GET", &format!("stream/{id}"), &Value::Null);
    assert_eq!((more.status, more.json()), (200, json!({ "status": "COMPLETED", "stream": [] })));
    assert_eq!(status(&server, &id)["output"], json!([{ "n": 1 }, { "n": 2 }, { "n": 3 }]));
}

#[test]
fn a_cancel_ends_a_waiting_and_a_running_job_and_can_be_repeated() {
    let server = start();
    let id = submit(&server, &json!({ "input": { "spin": true } }));
    running(&server, &id);
    for _ in 0..2 {
        let cancelled = ask(&server, "POST", &format!("cancel/{id}"), &json!({}));
        assert_eq!((cancelled.status, cancelled.json()), (200, json!({ "id": id, "status": "CANCELLED" })));
    }
    let told = ask(&server, "GET", &format!("stream/{id}"), &Value::Null);
    assert_eq!((told.status, told.json()), (200, json!({ "status": "CANCELLED", "stream": [] })));
    assert_eq!(ask(&server, "GET", &format!("stream/{id}"), &Value::Null).status, 404, "once, or clients loop");
    assert_eq!(status(&server, &id)["status"], "CANCELLED");
    // The attempt was ended, and is billed to its job.
    let request = status(&server, &id)["requestId"].as_str().unwrap().to_owned();
    wait_until("the attempt is over", || {
        let receipt = server.send("GET", &format!("/api/v1/requests/{request}"), &[], b"");
        receipt.status == 200 && receipt.json()["job"] == json!(id)
    });
    // A paused queue keeps its jobs, says so, and a purge cancels them.
    ask(&server, "POST", "pause", &Value::Null);
    let waiting: Vec<String> = (0..3).map(|_| submit(&server, &json!({ "input": {} }))).collect();
    assert_eq!(status(&server, &waiting[0])["waitReason"], "paused");
    let health = ask(&server, "GET", "health", &Value::Null).json();
    assert_eq!((&health["waitReason"], &health["workers"]["throttled"]), (&json!("paused"), &json!(0)), "{health}");
    ask(&server, "POST", &format!("cancel/{}", waiting[0]), &Value::Null);
    let purged = ask(&server, "POST", "purge-queue", &json!({})).json();
    assert_eq!(purged, json!({ "removed": 2, "status": "completed" }));
    assert!(waiting.iter().all(|id| status(&server, id)["status"] == "CANCELLED"));
    ask(&server, "POST", "resume", &Value::Null);
    assert_eq!(run(&server, &json!({ "say": 1 }))["status"], "COMPLETED");
}

#[test]
fn the_same_idempotency_key_gives_the_same_job_and_never_another() {
    let server = start();
    let send = |key: &str, say: u32| {
        let body = json!({ "input": { "say": say } }).to_string();
        server.send("POST", "/v2/task/run", &[("idempotency-key", key)], body.as_bytes())
    };
    let first = send("one", 1).json()["id"].clone();
    assert_eq!(send("one", 1).json()["id"], first);
    let other = send("one", 2);
    assert_eq!((other.status, &other.json()["code"]), (409, &json!("idempotency_key_reused")), "{}", other.text());
    assert_ne!(send("two", 1).json()["id"], first);
    // Many at once: still one job.
    let ids: Vec<Value> = std::thread::scope(|scope| {
        let sends: Vec<_> = (0..8).map(|_| scope.spawn(|| send("three", 3).json()["id"].clone())).collect();
        sends.into_iter().map(|send| send.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0] && id.is_string()), "{ids:?}");
    assert_eq!(ended(&server, ids[0].as_str().unwrap())["status"], "COMPLETED");
}

#[test]
fn a_job_whose_time_is_over_is_timed_out_and_can_be_read() {
    let server = start();
    let policy = json!({ "ttl": 10_000 });
    let running = submit(&server, &json!({ "input": { "sleep_ms": 60_000 }, "policy": policy }));
    let slow = submit(&server, &json!({ "input": { "sleep_ms": 60_000 }, "policy": { "executionTimeout": 5_000 } }));
    let done = ended(&server, &slow);
    assert_eq!((&done["status"], &done["errorCode"]), (&json!("TIMED_OUT"), &json!("deadline_exceeded")), "{done}");
    assert!(done["error"].as_str().unwrap().contains("jobs.timeout_s = 5"), "{done}");
    let over = ended(&server, &running);
    assert_eq!((&over["status"], &over["errorCode"]), (&json!("TIMED_OUT"), &json!("ttl_exceeded")), "{over}");
}

#[test]
fn jobs_may_use_more_than_requests_and_no_more_than_their_own_limits() {
    let server = Server::start();
    deploy_task(&server, "[limits]\ncpu_ms = 200\n[jobs]\ncpu_ms = 1500\nretries = 0\n");
    let spun = run(&server, &json!({ "spin": true }));
    assert_eq!((&spun["status"], &spun["errorCode"]), (&json!("TIMED_OUT"), &json!("deadline_exceeded")), "{spun}");
    assert!(spun["error"].as_str().unwrap().contains("jobs.cpu_ms = 1500"), "{spun}");
    let receipt = server.get_json(&format!("/api/v1/requests/{}", spun["requestId"].as_str().unwrap()));
    assert!(receipt["guest_us"].as_u64().unwrap() >= 1_400_000, "{receipt}");
}

#[test]
fn a_lost_worker_ends_the_last_attempt_and_repeats_the_others() {
    let server = Server::start();
    for (retries, last) in [(1, "IN_QUEUE"), (0, "FAILED")] {
        deploy_task(&server, &format!("[jobs]\nretries = {retries}\nbackoff_s = 3600\n"));
        // From here on, a worker has the version loaded.
        assert_eq!(run(&server, &json!({ "say": 1 }))["status"], "COMPLETED");
        let id = submit(&server, &json!({ "input": { "sleep_ms": 60_000 } }));
        running(&server, &id);
        let request = status(&server, &id)["requestId"].as_str().unwrap().to_owned();
        wait_until("the attempt is gone", || {
            for worker in server.children("__worker") {
                let _ = kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL);
            }
            status(&server, &id)["status"] != "IN_PROGRESS"
        });
        let lost = status(&server, &id);
        assert_eq!((&lost["status"], &lost["attempt"]), (&json!(last), &json!(1)), "{lost}");
        assert_eq!(lost["errorCode"], "function_killed", "{lost}");
        let receipt = server.get_json(&format!("/api/v1/requests/{request}"));
        assert_eq!(receipt["job"], json!(id));
        if last == "IN_QUEUE" {
            ask(&server, "POST", &format!("cancel/{id}"), &Value::Null);
        }
    }
}

#[test]
fn a_killed_server_loses_no_job_and_runs_interrupted_ones_at_once() {
    let data = tempfile::TempDir::new().unwrap();
    let options = || Options { data: Some(data.path()), ..Options::default() };
    let server = Server::start_with(&options());
    deploy_task(&server, TASK);
    let done = submit(&server, &json!({ "input": { "say": "before" } }));
    assert_eq!(ended(&server, &done)["status"], "COMPLETED");
    ask(&server, "POST", "pause", &Value::Null);
    let waiting: Vec<String> = (0..300).map(|n| submit(&server, &json!({ "input": { "say": n } }))).collect();
    // Last, and of another function, so that it still runs when the server is killed.
    assert_eq!(server.put(KEY, "task", "other", TASK, "").status, 201);
    let made = server.send("POST", "/v2/other/run", &[], br#"{"input": {"sleep_ms": 2000}}"#).json();
    let interrupted = format!("/v2/other/status/{}", made["id"].as_str().unwrap());
    wait_until("it runs", || server.get_json(&interrupted)["status"] == "IN_PROGRESS");
    server.kill();
    let server = Server::start_with(&options());
    assert_eq!(status(&server, &done)["output"]["said"], "before");
    assert_eq!(status(&server, &waiting[299])["waitReason"], "paused", "a pause outlives a restart");
    ask(&server, "POST", "resume", &Value::Null);
    wait_until("it has run again", || server.get_json(&interrupted)["status"] == "COMPLETED");
    assert_eq!(server.get_json(&interrupted)["attempt"], 2);
    for (n, id) in waiting.iter().enumerate() {
        assert_eq!(ended(&server, id)["output"]["said"], json!(n), "{id}");
    }
}

#[test]
fn the_log_of_a_job_outlives_its_worker_and_the_server() {
    let data = tempfile::TempDir::new().unwrap();
    let options = || Options { data: Some(data.path()), ..Options::default() };
    let server = Server::start_with(&options());
    deploy_task(&server, TASK);
    let failed = run(&server, &json!({ "trap_before": 9 }));
    let path = format!("jobs/{}/logs", failed["id"].as_str().unwrap());
    // Until the log is kept, it is what the memory has of the latest attempt.
    let has_all = |server: &Server| {
        let log = ask(server, "GET", &path, &Value::Null).text();
        (1..=3).all(|attempt| log.contains(&format!("attempt {attempt} traps, as asked")))
    };
    wait_until("the log has all three attempts", || has_all(&server));
    let is_stored = || {
        let files = std::fs::read_dir(data.path().join("jobs/records")).unwrap().flatten();
        let texts = files.filter_map(|file| std::fs::read(file.path()).ok());
        texts.map(|text| crate::support::text(&text)).any(|text| text.contains("attempt 3 traps, as asked"))
    };
    wait_until("and is stored", is_stored);
    server.kill();
    let server = Server::start_with(&options());
    assert!(has_all(&server));
}

#[test]
fn wrong_calls_are_told_what_is_wrong_and_other_tenants_see_nothing() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let (key, other) = (server.tenant("acme", &json!({ "jobs_queued": 2 })), server.tenant("zoo", &json!({})));
    for key in [&key, &other] {
        assert!(server.put(key, "task", "task", TASK, "").status < 300);
    }
    let ask = |key: &str, method: &str, path: &str, body: &str| {
        server.send_bare(
            method,
            &format!("/v2/{path}"),
            &[("authorization", &format!("Bearer {key}"))],
            body.as_bytes(),
        )
    };
    let refused = |answer: Response, status: u16, code: &str, detail: &str| {
        let body = answer.json();
        assert_eq!((answer.status, &body["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"].as_str().unwrap().contains(detail) && body["status"].is_null(), "{body}");
    };
    let id = ask(&key, "POST", "task/run", r#"{"input":{"say":1}}"#).json()["id"].as_str().unwrap().to_owned();
    for path in ["status", "stream", "status-sync"] {
        refused(ask(&other, "GET", &format!("task/{path}/{id}"), ""), 404, "job_not_found", "no such job");
    }
    for path in ["cancel", "retry"] {
        refused(ask(&other, "POST", &format!("task/{path}/{id}"), ""), 404, "job_not_found", "no such job");
    }
    refused(ask(&key, "GET", "task/status/none", ""), 404, "job_not_found", "no such job");
    refused(ask(&key, "POST", "none/run", r#"{"input":1}"#), 404, "not_found", "no such function");
    refused(ask("gnt_acme_wrong", "POST", "task/run", r#"{"input":1}"#), 401, "unauthorized", "not valid");
    refused(ask(&key, "GET", "task/run", ""), 405, "method_not_allowed", "POST");
    refused(ask(&key, "POST", "task/runs", ""), 404, "not_found", "");
    refused(ask(&key, "POST", "task/run", "{"), 400, "invalid_request", "the body is no JSON object");
    refused(ask(&key, "POST", "task/run", "{}"), 400, "invalid_request", "no `input`");
    refused(ask(&key, "POST", "task/runsync?wait=999", r#"{"input":1}"#), 400, "invalid_request", "1000 to 300000");
    let policy = r#"{"input":1,"policy":{"ttl":9999}}"#;
    refused(ask(&key, "POST", "task/run", policy), 400, "invalid_request", "policy.ttl = 9999");
    // Bodies at their exact limits.
    for (call, limit) in [("run", 10 << 20), ("runsync", 20 << 20)] {
        let body = |bytes: usize| format!("{{\"input\":{{\"say\":\"{}\"}}}}", "x".repeat(bytes - 22));
        assert_eq!(body(100).len(), 100 - 22 + 20);
        let fits = body(limit + 2);
        assert_eq!(fits.len(), limit);
        let answer = ask(&other, "POST", &format!("task/{call}"), &fits);
        assert_eq!(answer.status, 200, "{call}");
        refused(
            ask(&other, "POST", &format!("task/{call}"), &body(limit + 3)),
            413,
            "body_too_large",
            &limit.to_string(),
        );
    }
    // A limit of the tenant, with its value and what is used.
    ask(&key, "POST", "task/pause", "");
    for _ in 0..2 {
        assert_eq!(ask(&key, "POST", "task/run", r#"{"input":1}"#).status, 200);
    }
    refused(ask(&key, "POST", "task/run", r#"{"input":1}"#), 429, "tenant_limit", "jobs_queued = 2; in use: 2");
    ask(&key, "POST", "task/purge-queue", "");
    assert_eq!(ask(&key, "POST", "task/run", r#"{"input":1}"#).status, 200);
}

#[test]
fn jobs_leave_permits_to_requests_and_a_key_runs_one_at_a_time() {
    let server = Server::start();
    deploy_task(&server, "[limits]\nconcurrency = 4\n[jobs]\nkey = \"/user\"\nretries = 0\n");
    let sleep = json!({ "input": { "sleep_ms": 60_000 } });
    let all: Vec<String> = (0..6).map(|_| submit(&server, &sleep)).collect();
    let count = |state: &str| all.iter().filter(|id| status(&server, id)["status"] == state).count();
    wait_until("three of four permits are taken", || count("IN_PROGRESS") == 3);
    // A request gets the fourth.
    let answer = server.call("task", "/", br#"{"id":"x","input":{"say":"now"}}"#);
    assert_eq!((answer.status, &answer.json()["said"]), (200, &json!("now")), "{}", answer.text());
    assert_eq!((count("IN_PROGRESS"), count("IN_QUEUE")), (3, 3));
    let waiting = all.iter().find(|id| status(&server, id)["status"] == "IN_QUEUE").unwrap();
    assert_eq!(status(&server, waiting)["waitReason"], "capacity");
    for id in &all {
        ask(&server, "POST", &format!("cancel/{id}"), &Value::Null);
    }
    let of = |user: &str| submit(&server, &json!({ "input": { "sleep_ms": 60_000, "user": user } }));
    let (first, second, other) = (of("ann"), of("ann"), of("bob"));
    running(&server, &first);
    running(&server, &other);
    assert_eq!(status(&server, &second)["status"], "IN_QUEUE");
    ask(&server, "POST", &format!("cancel/{first}"), &Value::Null);
    running(&server, &second);
}

#[test]
fn jobs_with_one_key_begin_at_the_rate_of_the_settings() {
    let server = Server::start();
    // One in a minute: the second has not begun while everything else has.
    deploy_task(&server, "[jobs]\nkey = \"/user\"\nkey_concurrency = 8\nkey_per_minute = 1\n");
    let of = |user: &str| submit(&server, &json!({ "input": { "say": user, "user": user } }));
    let (first, second, other) = (of("ann"), of("ann"), of("bob"));
    for id in [&first, &other] {
        assert_eq!(ended(&server, id)["status"], "COMPLETED");
    }
    assert_eq!(status(&server, &second)["status"], "IN_QUEUE");
    // With other settings, which the queue sees at its next change, it need not wait.
    deploy_task(&server, "[jobs]\nkey = \"/user\"\n");
    of("zoe");
    assert_eq!(ended(&server, &second)["status"], "COMPLETED");
}
