//! Rules of jobs that clients and operators set: when a job may begin, which failures are tried again, and pauses of all
//! queues of a tenant.

use crate::support::{KEY, Server, wait_until};
use serde_json::{Value, json};

fn deploy(server: &Server, function: &str, component: &str, manifest: &str) {
    let deployed = server.put(KEY, component, function, manifest, "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = server.send(method, &format!("/v2/{path}"), &[], text.as_bytes());
    assert!(answer.status < 300, "{}", answer.text());
    answer.json()
}

fn submit(server: &Server, body: &Value) -> String {
    ask(server, "POST", "task/run", body)["id"].as_str().unwrap().to_owned()
}

/// Waits until a job has ended.
fn ended(server: &Server, function: &str, id: &str) -> Value {
    loop {
        let answer = ask(server, "GET", &format!("{function}/status-sync/{id}?wait=20000"), &Value::Null);
        if !matches!(answer["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS")) {
            return answer;
        }
    }
}

#[test]
fn a_job_with_a_delay_begins_when_its_time_has_come_and_keeps_nobody_waiting() {
    let server = Server::start();
    deploy(&server, "task", "task", "");
    let later = submit(&server, &json!({ "input": { "say": 1 }, "policy": { "delay": 3_600_000 } }));
    let soon = submit(&server, &json!({ "input": { "say": 2 }, "policy": { "delay": 300 } }));
    let now = submit(&server, &json!({ "input": { "say": 3 } }));
    assert_eq!(ended(&server, "task", &now)["status"], "COMPLETED");
    let done = ended(&server, "task", &soon);
    assert_eq!((&done["status"], &done["attempt"]), (&json!("COMPLETED"), &json!(1)));
    assert!(done["delayTime"].as_u64().unwrap() >= 300, "{done}");
    let waits = ask(&server, "GET", &format!("task/status/{later}"), &Value::Null);
    assert!(waits["status"] == "IN_QUEUE" && waits["attempt"].is_null(), "{waits}");
    ask(&server, "POST", &format!("task/cancel/{later}"), &Value::Null);
    let refused = server.send("POST", "/v2/task/run", &[], br#"{"input": 1, "policy": {"delay": 604800001}}"#);
    assert!(refused.status == 400 && refused.text().contains("it may be 0 to 604800000"), "{}", refused.text());
    let batch = server.send("POST", "/v2/task/batches", &[], br#"{"inputs": [1], "policy": {"delay": 1}}"#);
    assert!(batch.status == 400 && batch.text().contains("a batch has no policy.delay"), "{}", batch.text());
}

#[test]
fn a_function_that_was_refused_memory_is_tried_again_if_its_manifest_says_so() {
    let server = Server::start();
    for (condition, attempts) in [("memory", 2), ("trap", 1)] {
        let manifest =
            format!("[limits]\nmemory_mib = 64\n[jobs]\nretries = 1\nbackoff_s = 0\nretry_on = [\"{condition}\"]\n");
        deploy(&server, "faulty", "faulty", &manifest);
        for (path, code) in [("/memory", "function_trapped"), ("/gpu/quota", "gpu_memory_quota")] {
            let schedule = json!({ "name": "now", "cron": "@yearly", "path": path });
            ask(&server, "POST", "faulty/schedules", &schedule);
            let started = ask(&server, "POST", "faulty/schedules/now/run", &Value::Null);
            let failed = ended(&server, "faulty", started["id"].as_str().unwrap());
            assert_eq!((&failed["status"], &failed["errorCode"]), (&json!("FAILED"), &json!(code)), "{failed}");
            assert_eq!(failed["attempt"], attempts, "{condition}: {failed}");
            let receipt = server.get_json(&format!("/api/v1/requests/{}", failed["requestId"].as_str().unwrap()));
            assert_eq!(receipt["reached"] == "memory_mib", path == "/memory", "{receipt}");
        }
    }
}

#[test]
fn all_queues_of_a_tenant_can_be_paused_and_others_go_on() {
    let server = Server::start();
    for function in ["task", "other"] {
        deploy(&server, function, "task", "");
    }
    let zoo = server.tenant("zoo", &json!({}));
    assert_eq!(server.put(&zoo, "task", "task", "", "").status, 201);
    let pause = |call: &str, key: &str| server.control(key, "POST", &format!("queues/{call}"), &Value::Null);
    assert_eq!(pause("pause", KEY).json(), json!({ "paused": true }));
    ask(&server, "POST", "other/pause", &Value::Null);
    let run = |function: &str| {
        let made = ask(&server, "POST", &format!("{function}/run"), &json!({ "input": { "say": 1 } }));
        made["id"].as_str().unwrap().to_owned()
    };
    let (one, two) = (run("task"), run("other"));
    let theirs =
        server.send_bare("POST", "/v2/task/runsync", &[("authorization", zoo.as_str())], br#"{"input":{"say":1}}"#);
    assert_eq!(theirs.json()["status"], "COMPLETED", "{}", theirs.text());
    let state = |function: &str, id: &str| {
        let view = ask(&server, "GET", &format!("{function}/status/{id}"), &Value::Null);
        (view["status"].as_str().unwrap().to_owned(), view["waitReason"].as_str().map(ToOwned::to_owned))
    };
    for (function, id) in [("task", &one), ("other", &two)] {
        assert_eq!(state(function, id), ("IN_QUEUE".into(), Some("paused".into())));
    }
    assert_eq!(pause("resume", KEY).json(), json!({ "paused": false }));
    assert_eq!(ended(&server, "task", &one)["status"], "COMPLETED");
    assert_eq!(state("other", &two), ("IN_QUEUE".into(), Some("paused".into())), "it was paused by itself");
    ask(&server, "POST", "other/resume", &Value::Null);
    wait_until("it goes on too", || state("other", &two).0 == "COMPLETED");
    let weak = server.control(KEY, "POST", "tenants/dev/keys", &json!({ "scopes": ["invoke", "read", "deploy"] }));
    let weak = weak.json()["key"].as_str().unwrap().to_owned();
    pause("pause", &weak).is_problem(403, "forbidden", "\"admin\"");
    let audit = server.get_json("/api/v1/audit").to_string();
    assert!(audit.contains("pauseQueues") && audit.contains("resumeQueues"), "{audit}");
}
