//! Batches: many inputs with one handle, by HTTP and by command.

use crate::support::{KEY, Options, Response, Server, text, wait_until};
use serde_json::{Value, json};

fn start() -> Server {
    let server = Server::start();
    deploy(&server);
    server
}

fn deploy(server: &Server) {
    let deployed = server.put(KEY, "task", "task", "[limits]\nconcurrency = 8\n[jobs]\nretries = 0\n", "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    server.send(method, &format!("/v2/task/{path}"), headers, body.as_bytes())
}

fn make(server: &Server, body: &Value) -> Value {
    let made = ask(server, "POST", "batches", &[], &body.to_string());
    assert_eq!(made.status, 200, "{}", made.text());
    made.json()
}

/// Returns a batch, and checks that its counts add up.
fn batch(server: &Server, id: &str) -> Value {
    let answer = ask(server, "GET", &format!("batches/{id}"), &[], "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let batch = answer.json();
    let counts = batch["counts"].as_object().unwrap();
    let sum: u64 = counts.iter().filter(|(name, _)| *name != "total").map(|(_, count)| count.as_u64().unwrap()).sum();
    assert_eq!(json!(sum), counts["total"], "{batch}");
    batch
}

fn completed(server: &Server, id: &str) -> Value {
    wait_until("the batch has ended", || batch(server, id)["status"] == "COMPLETED");
    batch(server, id)
}

fn results(server: &Server, id: &str, query: &str) -> Vec<Value> {
    let answer = ask(server, "GET", &format!("batches/{id}/results{query}"), &[], "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn says(from: usize, to: usize) -> Vec<Value> {
    (from..to).map(|n| json!({ "say": n })).collect()
}

#[test]
fn many_inputs_have_one_handle_and_their_results_come_in_order() {
    let server = start();
    let made = make(&server, &json!({ "inputs": says(0, 1_200), "name": "night", "more": true }));
    assert_eq!((&made["counts"]["total"], &made["name"]), (&json!(1_200), &json!("night")));
    let id = made["id"].as_str().unwrap();
    let lines: String = says(1_200, 1_300).iter().map(|input| format!("{input}\n")).collect();
    let media_type = [("content-type", "application/x-ndjson"), ("idempotency-key", "second")];
    for _ in 0..2 {
        let added = ask(&server, "POST", &format!("batches/{id}/items"), &media_type, &lines);
        assert_eq!((added.status, &added.json()["counts"]["total"]), (200, &json!(1_300)), "{}", added.text());
    }
    assert_eq!(ask(&server, "POST", &format!("batches/{id}/close"), &[], "").json()["more"], json!(false));
    let done = completed(&server, id);
    assert_eq!(done["counts"]["completed"], json!(1_300), "{done}");
    let all = results(&server, id, "");
    assert_eq!(all.len(), 1_300);
    for (index, line) in all.iter().enumerate() {
        assert_eq!((&line["index"], &line["output"]["said"]), (&json!(index), &json!(index)), "{line}");
    }
    assert_eq!(results(&server, id, "?from=1298"), all[1_298..]);
    // An item is a job, and its receipt names the batch.
    let item = all[7]["id"].as_str().unwrap();
    let job = ask(&server, "GET", &format!("status/{item}"), &[], "").json();
    let receipt = server.get_json(&format!("/api/v1/requests/{}", job["requestId"].as_str().unwrap()));
    assert_eq!((&receipt["job"], &receipt["batch"]), (&json!(item), &json!(id)));
    let listed = ask(&server, "GET", "batches?limit=1", &[], "").json();
    assert_eq!((&listed["batches"][0]["id"], &listed["cursor"]), (&json!(id), &Value::Null));
}

#[test]
fn failed_items_are_retried_and_a_cancel_leaves_those_that_run() {
    let server = start();
    let made = make(&server, &json!({ "inputs": [{ "say": 1 }, { "trap_before": 2, "tell_attempt": true }] }));
    let id = made["id"].as_str().unwrap();
    let failed = completed(&server, id);
    assert_eq!((&failed["counts"]["completed"], &failed["counts"]["failed"]), (&json!(1), &json!(1)));
    assert_eq!(results(&server, id, "")[1]["errorCode"], "function_trapped");
    let again = ask(&server, "POST", &format!("batches/{id}/retry"), &[], "").json();
    assert_eq!(again["retried"], 1, "{again}");
    assert_eq!(completed(&server, id)["counts"]["completed"], 2);

    let sleeps = vec![json!({ "sleep_ms": 1_500 }); 20];
    let made = make(&server, &json!({ "inputs": sleeps }));
    let id = made["id"].as_str().unwrap();
    wait_until("items run", || batch(&server, id)["counts"]["in_progress"].as_u64().unwrap() > 0);
    let cancelled = ask(&server, "POST", &format!("batches/{id}/cancel"), &[], "").json();
    assert_eq!((&cancelled["status"], &cancelled["counts"]["in_queue"]), (&json!("CANCELLED"), &json!(0)));
    wait_until("what ran has ended", || batch(&server, id)["counts"]["in_progress"] == 0);
    let ended = batch(&server, id);
    assert!(ended["counts"]["completed"].as_u64().unwrap() > 0, "{ended}");
    let refused = ask(&server, "POST", &format!("batches/{id}/retry"), &[], "");
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("batch_cancelled")));
}

#[test]
fn five_thousand_items_beside_requests_add_up_at_every_moment_and_every_request_is_answered() {
    let server = start();
    let made = make(&server, &json!({ "inputs": says(0, 5_000) }));
    let id = made["id"].as_str().unwrap();
    let mut seen = Vec::new();
    // `batch` checks that the counts add up.
    while seen.last().is_none_or(|last| *last < 5_000) {
        let answer = server.call("task", "/", br#"{"id":"x","input":{"say":"now"}}"#);
        assert_eq!((answer.status, &answer.json()["said"]), (200, &json!("now")), "{}", answer.text());
        seen.push(batch(&server, id)["counts"]["completed"].as_u64().unwrap());
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.iter().any(|count| (1..5_000).contains(count)), "it was looked at while it ran: {seen:?}");
    assert_eq!(batch(&server, id)["status"], "COMPLETED");
}

#[test]
fn a_batch_leaves_half_to_other_jobs_and_a_request_gets_through() {
    let server = start();
    let made = make(&server, &json!({ "inputs": vec![json!({ "sleep_ms": 60_000 }); 20] }));
    let id = made["id"].as_str().unwrap();
    let runs = || batch(&server, id)["counts"]["in_progress"].as_u64().unwrap();
    wait_until("items take what jobs may take", || runs() == 6);
    let answer = server.call("task", "/", br#"{"id":"x","input":{"say":"now"}}"#);
    assert_eq!((answer.status, &answer.json()["said"]), (200, &json!("now")), "{}", answer.text());
    ask(&server, "POST", &format!("batches/{id}/cancel"), &[], "");
}

#[test]
fn a_killed_server_has_all_items_of_a_call_or_none_and_the_same_key_makes_no_second_batch() {
    let data = tempfile::TempDir::new().unwrap();
    let options = || Options { data: Some(data.path()), ..Options::default() };
    let mut server = Server::start_with(&options());
    deploy(&server);
    let body = json!({ "inputs": says(0, 2_000) }).to_string();
    let headers = [("x-gannet-key", KEY), ("idempotency-key", "once")];
    for round in 0..3 {
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| server.try_send("POST", "/v2/task/batches", &headers, body.as_bytes()));
            std::thread::sleep(std::time::Duration::from_millis(40 * (round + 1)));
            server.kill();
            drop(sending.join().unwrap());
        });
        server = Server::start_with(&options());
        let listed = ask(&server, "GET", "batches", &[], "").json();
        let batches = listed["batches"].as_array().unwrap();
        assert!(batches.len() <= 1, "{listed}");
        assert!(batches.iter().all(|batch| batch["counts"]["total"] == 2_000), "{listed}");
    }
    let made = ask(&server, "POST", "batches", &[("idempotency-key", "once")], &body).json();
    let done = completed(&server, made["id"].as_str().unwrap());
    assert_eq!(done["counts"]["completed"], 2_000, "{done}");
    assert_eq!(ask(&server, "GET", "batches", &[], "").json()["batches"].as_array().unwrap().len(), 1);
}

#[test]
fn wrong_calls_are_told_what_is_wrong() {
    let server = start();
    let refused = |answer: Response, status: u16, code: &str, detail: &str| {
        let body = answer.json();
        assert_eq!((answer.status, &body["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"].as_str().unwrap().contains(detail) && body["status"].is_null(), "{body}");
    };
    let post = |path: &str, body: &str| ask(&server, "POST", path, &[], body);
    refused(post("batches", "{}"), 400, "invalid_request", "missing field `inputs`");
    refused(post("batches", r#"{"inputs":[]}"#), 400, "invalid_request", "0 inputs; it may have 1 to 5000");
    let many = json!({ "inputs": vec![0; 5_001] }).to_string();
    refused(post("batches", &many), 400, "invalid_request", "5001 inputs");
    let webhook = r#"{"inputs":[1],"webhook":"ftp://example.org/"}"#;
    refused(post("batches", webhook), 400, "invalid_request", "it must be an absolute http or https URL");
    refused(post("batches", r#"{"inputs":[1],"policy":{"ttl":1}}"#), 400, "invalid_request", "policy.ttl = 1");
    refused(ask(&server, "GET", "batches/none", &[], ""), 404, "batch_not_found", "no such batch");
    refused(ask(&server, "DELETE", "batches", &[], ""), 405, "method_not_allowed", "DELETE");
    let made = make(&server, &json!({ "inputs": [{ "say": 1 }] }));
    let items = format!("batches/{}/items", made["id"].as_str().unwrap());
    refused(post(&items, r#"{"inputs":[1]}"#), 409, "batch_closed", "is closed");
    let key = [("idempotency-key", "k")];
    assert_eq!(ask(&server, "POST", "batches", &key, r#"{"inputs":[{"say":1}]}"#).status, 200);
    let other = ask(&server, "POST", "batches", &key, r#"{"inputs":[{"say":2}]}"#);
    refused(other, 409, "idempotency_key_reused", "with another body");
}

#[test]
fn the_command_submits_a_file_waits_and_writes_the_results() {
    let server = start();
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let lines: String = says(0, 5_100).iter().map(|input| format!("{input}\n")).collect();
    std::fs::write(path("in.jsonl"), lines).unwrap();
    let run = |arguments: &[&str], code: i32| {
        let output = server.cli(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout).trim_end().to_owned(), text(&output.stderr))
    };
    let (id, told) = run(&["batch", "submit", "task", &path("in.jsonl"), "--wait", "--label", "night"], 0);
    assert!(told.contains("is COMPLETED: 5100 items, 5100 completed"), "{told}");
    let (shown, _) = run(&["batch", "status", "task", &id], 0);
    for part in [id.as_str(), "state          COMPLETED", "name           night", "completed      5100"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    run(&["batch", "results", "task", &id, "-o", &path("out.jsonl")], 0);
    let written = std::fs::read_to_string(path("out.jsonl")).unwrap();
    assert_eq!(written.lines().count(), 5_100);
    let last: Value = serde_json::from_str(written.lines().last().unwrap()).unwrap();
    assert_eq!((&last["index"], &last["output"]["said"]), (&json!(5_099), &json!(5_099)));
    assert_eq!(run(&["batch", "results", "task", &id, "--from", "5098"], 0).0.lines().count(), 2);
    assert!(run(&["batches", "list", "task"], 0).0.contains("5100/5100"));
    std::fs::write(path("bad.jsonl"), "{\"fail\": \"because\"}\n").unwrap();
    let (failed, told) = run(&["batch", "submit", "task", &path("bad.jsonl"), "--wait"], 1);
    assert!(told.contains("1 failed") && told.contains("gannet batch results task"), "{told}");
    let bad_address = ["batch", "submit", "task", &path("bad.jsonl"), "--webhook", "ftp://example.org/"];
    assert!(run(&bad_address, 1).1.contains("it must be an absolute http or https URL"));
    // A batch can be waited for later, and again.
    let (printed, told) = run(&["batch", "wait", "task", &id], 0);
    assert!(printed.is_empty() && told.contains("is COMPLETED: 5100 items, 5100 completed"), "{printed} {told}");
    assert!(run(&["batch", "wait", "task", &failed], 1).1.contains("1 failed"));
    let (answer, _) = run(&["batch", "wait", "task", &failed, "--json"], 1);
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["counts"]["failed"], 1);
    std::fs::write(path("bad.jsonl"), "{}\n{\n").unwrap();
    assert!(run(&["batch", "submit", "task", &path("bad.jsonl")], 2).1.contains("line 2 is not JSON"));
    let (_, told) = run(&["batch", "cancel", "task", &id], 0);
    assert!(told.contains("is COMPLETED"), "{told}");
}

#[test]
fn the_command_waits_until_nothing_can_be_added_to_a_batch_any_more() {
    let server = start();
    let open = make(&server, &json!({ "inputs": says(0, 2), "more": true }));
    let id = open["id"].as_str().unwrap();
    wait_until("its items have ended", || batch(&server, id)["counts"]["completed"] == 2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.cli(&["batch", "wait", "task", id]));
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        assert!(!waiting.is_finished(), "items may be added");
        assert_eq!(ask(&server, "POST", &format!("batches/{id}/close"), &[], "").status, 200);
        let waited = waiting.join().unwrap();
        assert_eq!(waited.status.code(), Some(0), "{}", text(&waited.stderr));
    });
    let none = server.cli(&["batch", "wait", "task", "019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("there is no such batch"), "{}", text(&none.stderr));
    assert_eq!(server.cli(&["batch", "wait", "task"]).status.code(), Some(2), "the ID is missing");
}
