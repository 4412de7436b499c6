//! Hooks from end to end: a signed event comes in, its result goes out signed, also where functions have hosts of their
//! own.

use crate::support::jobs::JobApi;
use crate::support::receiver::{Receiver, standard};
use crate::support::{KEY, Options, Server};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const OPEN: &str = "[egress]\nallow_ranges = [\"127.0.0.0/8\"]\n";

/// Posts a signed event, and returns the id of its job.
#[track_caller]
fn post(server: &Server, made: &Value, id: &str, media_type: &str, body: &[u8]) -> String {
    let path = made["url"].as_str().unwrap().strip_prefix(&server.url).unwrap();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let fields = standard(made["secret"].as_str().unwrap(), id, now_s, body);
    let mut headers: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.push(("content-type", media_type));
    let answer = server.send_bare("POST", path, &headers, body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Waits for the result of a job, and checks that it is signed with the tenant's secret and is what `status` says.
#[track_caller]
fn received(jobs: &JobApi<'_>, receiver: &Receiver, id: &str) -> Value {
    let message = receiver.next();
    let secret = jobs.server.get_json("/api/v1/webhooks/secret")["secret"].as_str().unwrap().to_owned();
    assert!(message.is_signed_with(&secret), "{:?}", message.headers);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed_s: u64 = message.headers["webhook-timestamp"].parse().unwrap();
    assert!(signed_s.abs_diff(now_s) < 300, "{signed_s} at {now_s}");
    assert_eq!((&*message.headers["webhook-id"], &*message.headers["content-type"]), (id, "application/json"));
    assert_eq!(message.json(), jobs.status(id));
    message.json()
}

#[test]
fn a_source_gets_the_results_of_its_events_by_configuration_alone() {
    let receiver = Receiver::start(&[]);
    let server = Server::start_with(&Options { config: Some(OPEN), ..Options::default() });
    assert!(server.put(KEY, "task", "task", "", "").status < 300);
    let jobs = JobApi { server: &server, key: KEY, function: "task" };
    let hook = json!({ "name": "a", "verify": "standard", "webhook": receiver.url() });
    let made = jobs.get("POST", "hooks", &hook);
    let id = post(&server, &made, "m1", "application/json", b"{}");
    assert_eq!(received(&jobs, &receiver, &id)["status"], "COMPLETED");
    // The same event again is neither run nor told again.
    assert_eq!(post(&server, &made, "m1", "application/json", b"{}"), id);
    receiver.stays_silent();
}

#[test]
fn the_function_hook_answers_signed_events() {
    let receiver = Receiver::start(&[]);
    let server = Server::start_with(&Options { config: Some(OPEN), ..Options::default() });
    server.deploy("hook");
    let jobs = JobApi { server: &server, key: KEY, function: "hook" };
    let made =
        jobs.get("POST", "hooks", &json!({ "name": "sensors", "verify": "standard", "webhook": receiver.url() }));
    let json = br#"{"sensor": "s1", "readings": [1, 2, 6, 7], "width": 1}"#;
    for (id, media_type, body, sensor, smoothed) in [
        ("m1", "application/json", &json[..], json!("s1"), [1.5, 3.0, 5.0, 6.5]),
        ("m2", "text/csv", b"1,2,6,7", Value::Null, [3.0, 4.0, 4.0, 5.0]),
    ] {
        let job = post(&server, &made, id, media_type, body);
        let told = received(&jobs, &receiver, &job);
        let output = &told["output"];
        assert_eq!((&told["status"], &output["source"]), (&json!("COMPLETED"), &json!("sensors")), "{told}");
        assert_eq!((&output["sensor"], &output["smoothed"]), (&sensor, &json!(smoothed)), "{told}");
        let receipt = jobs.billed(&told["requestId"]);
        assert!(receipt["gpu_ns"].as_u64() > Some(0) || receipt["slices"].as_u64() > Some(0), "{receipt}");
    }
    // An event that the function refuses is told too.
    let bad = post(&server, &made, "m3", "application/json", br#"{"readings": []}"#);
    let told = received(&jobs, &receiver, &bad);
    assert_eq!((&told["status"], &told["errorCode"]), (&json!("FAILED"), &json!("function_error")), "{told}");
    assert!(told["error"].as_str().unwrap().contains("0 readings"), "{told}");
}

#[test]
fn with_a_domain_hooks_are_posted_to_the_servers_own_host() {
    let config = "spares = 0\ndomain = \"fn.localhost\"\n";
    let server = Server::start_with(&Options { config: Some(config), not_dev: true, ..Options::default() });
    let key = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&key, "task", "task", "[http]\npublic = true\n", "").status, 201);
    let jobs = JobApi { server: &server, key: &key, function: "task" };
    let made = jobs.get("POST", "hooks", &json!({ "name": "a" }));
    let path = made["url"].as_str().unwrap().strip_prefix(&server.url).expect("the URL is below the server's own");
    let send = |host: &str, body: &[u8]| {
        let headers = if host.is_empty() { vec![] } else { vec![("host", host)] };
        server.send_bare("POST", path, &headers, body)
    };
    for (host, body) in [("", b"1"), ("fn.localhost", b"2")] {
        let answer = send(host, body);
        assert_eq!(answer.status, 202, "{host}: {}", answer.text());
        assert_eq!(jobs.ended(answer.json()["id"].as_str().unwrap())["status"], "COMPLETED");
    }
    // On the function's own host the path is the function's: it gets the request, and there is no job.
    let own = send("task--acme.fn.localhost", br#"{"id":"x","input":{"say":"mine"}}"#);
    assert_eq!((own.status, &own.json()["said"]), (200, &json!("mine")), "{}", own.text());
    assert_eq!(jobs.get("GET", "jobs", &Value::Null)["jobs"].as_array().unwrap().len(), 2);
}
