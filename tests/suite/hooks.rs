//! Hooks: what is posted to their URLs becomes a job, once for each delivery; who may post, and what is refused.

use crate::support::receiver::{hmac, standard};
use crate::support::{KEY, Options, Response, Server, text, wait_until};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const LOGGED: &str = "[logs]\naccess = \"LOG\"\n";

fn deploy(server: &Server, manifest: &str) {
    let deployed = server.put(KEY, "task", "task", manifest, "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

fn start() -> Server {
    let server = Server::start();
    deploy(&server, "[jobs]\nretries = 0\n");
    server
}

fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Response {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    server.send(method, &format!("/v2/task/{path}"), &[], text.as_bytes())
}

/// Makes a hook, and returns what the server said.
#[track_caller]
fn make(server: &Server, body: &Value) -> Value {
    let made = ask(server, "POST", "hooks", body);
    assert_eq!(made.status, 200, "{}", made.text());
    made.json()
}

/// Returns the path of a hook's URL.
fn path_of(server: &Server, made: &Value) -> String {
    let url = made["url"].as_str().unwrap();
    url.strip_prefix(&server.url).unwrap_or_else(|| panic!("{url} is not below {}", server.url)).to_owned()
}

fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    server.send_bare("POST", path, headers, body)
}

/// Posts what must be accepted, and returns the id of its job.
#[track_caller]
fn accepted(server: &Server, path: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let answer = post(server, path, headers, body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{}", answer.text());
    assert!(answer.json()["status"].is_null() && answer.json()["error"].is_string(), "{}", answer.text());
}

fn ended(server: &Server, id: &str) -> Value {
    let mut status = Value::Null;
    wait_until("the job has ended", || {
        status = ask(server, "GET", &format!("status/{id}"), &Value::Null).json();
        !matches!(status["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS"))
    });
    status
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn as_headers<'a>(fields: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    fields.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// Counts the jobs of the function.
fn jobs(server: &Server) -> usize {
    ask(server, "GET", "jobs", &Value::Null).json()["jobs"].as_array().unwrap().len()
}

#[test]
fn what_is_posted_to_a_hook_is_the_input_of_a_job() {
    let server = start();
    let made = make(&server, &json!({ "name": "source" }));
    assert!(made["secret"].is_null() && made["verify"] == "url", "{made}");
    let path = path_of(&server, &made);
    assert!(
        path.starts_with("/hooks/dev/task/source/") && path.len() == "/hooks/dev/task/source/".len() + 43,
        "{path}"
    );
    // The input has no key that `task` knows, so its output is empty.
    let id = accepted(&server, &path, &[("content-type", "application/json")], br#"{"event": "push"}"#);
    let done = ended(&server, &id);
    assert_eq!((&done["status"], &done["output"]), (&json!("COMPLETED"), &json!({ "said": null })), "{done}");
    let listed = ask(&server, "GET", "hooks", &Value::Null).json();
    assert_eq!((&listed["hooks"][0]["name"], &listed["hooks"][0]["window_s"]), (&json!("source"), &json!(300)));
    assert!(!listed.to_string().contains(path.rsplit('/').next().unwrap()), "{listed}");
    let deleted = ask(&server, "DELETE", "hooks/source", &Value::Null);
    assert_eq!(deleted.json(), json!({ "deleted": "source" }), "{}", deleted.text());
    refused(&post(&server, &path, &[], b"{}"), 404, "hook_not_found");
}

#[test]
fn the_same_delivery_gives_the_same_job() {
    let server = start();
    let path = path_of(&server, &make(&server, &json!({ "name": "a" })));
    let first = accepted(&server, &path, &[("webhook-id", "m1")], b"{}");
    assert_eq!(accepted(&server, &path, &[("webhook-id", "m1"), ("x-other", "header")], b"{}"), first);
    let github = accepted(&server, &path, &[("x-github-delivery", "g1")], b"{}");
    assert_eq!(accepted(&server, &path, &[("x-github-delivery", "g1")], b"{}"), github);
    refused(&post(&server, &path, &[("webhook-id", "m1")], b"[]"), 409, "delivery_id_reused");
    let by_body = accepted(&server, &path, &[], b"[1]");
    assert_eq!(accepted(&server, &path, &[], b"[1]"), by_body);
    let all: std::collections::BTreeSet<String> =
        [first.clone(), github, by_body, accepted(&server, &path, &[], b"[2]")].into();
    assert_eq!((all.len(), jobs(&server)), (4, 4));
    // Another hook's deliveries are others, and without a window each call is one.
    let other = path_of(&server, &make(&server, &json!({ "name": "b", "window_s": 0, "id_header": "x-id" })));
    assert_ne!(accepted(&server, &other, &[("webhook-id", "m1")], b"{}"), first);
    let one = accepted(&server, &other, &[("x-id", "1")], b"{}");
    assert_eq!(accepted(&server, &other, &[("x-id", "1")], b"{}"), one);
    assert_ne!(accepted(&server, &other, &[], b"{}"), accepted(&server, &other, &[], b"{}"));
    let long = "x".repeat(256);
    refused(&post(&server, &other, &[("x-id", &long)], b"{}"), 400, "invalid_request");
}

#[test]
fn many_at_once_with_one_id_make_one_job() {
    let server = start();
    let path = path_of(&server, &make(&server, &json!({ "name": "a" })));
    let ids: Vec<String> = std::thread::scope(|scope| {
        let posting: Vec<_> =
            (0..8).map(|_| scope.spawn(|| accepted(&server, &path, &[("webhook-id", "m")], b"{}"))).collect();
        posting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(jobs(&server), 1);
}

#[test]
fn a_delivery_is_known_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let options = || Options { data: Some(&data), ..Options::default() };
    let server = Server::start_with(&options());
    deploy(&server, "");
    let made = make(&server, &json!({ "name": "a", "verify": "standard" }));
    let (path, secret) = (path_of(&server, &made), made["secret"].as_str().unwrap().to_owned());
    let send = |server: &Server, id: &str| {
        let fields = standard(&secret, id, now_s(), b"{}");
        accepted(server, &path, &as_headers(&fields), b"{}")
    };
    let first = send(&server, "m1");
    server.kill();
    drop(server);
    let server = Server::start_with(&options());
    assert_eq!(send(&server, "m1"), first);
    assert_ne!(send(&server, "m2"), first);
    assert_eq!(jobs(&server), 2);
}

#[test]
fn signatures_are_checked_as_their_senders_make_them() {
    let server = start();
    let made = make(&server, &json!({ "name": "standard", "verify": "standard" }));
    let (path, secret) = (path_of(&server, &made), made["secret"].as_str().unwrap().to_owned());
    let body = br#"{"type": "invoice.paid"}"#;
    let send = |secret: &str, time: u64, body: &[u8], sent: &[u8]| {
        let fields = standard(secret, &format!("m{time}"), time, body);
        post(&server, &path, &as_headers(&fields), sent)
    };
    assert_eq!(send(&secret, now_s(), body, body).status, 202);
    refused(&send(&secret, now_s() - 400, body, body), 401, "timestamp_invalid");
    refused(&send(&secret, now_s() + 400, body, body), 401, "timestamp_invalid");
    refused(&send(&secret, now_s(), body, b"{}"), 401, "signature_invalid");
    refused(&send("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", now_s(), body, body), 401, "signature_invalid");
    refused(&post(&server, &path, &[], body), 401, "signature_invalid");
    // As GitHub does, with a secret that the source has chosen.
    let github = json!({ "name": "github", "verify": "hmac-sha256", "secret": "chosen elsewhere" });
    let made = make(&server, &github);
    assert!(made["secret"].is_null() && !made.to_string().contains("chosen"), "{made}");
    let path = path_of(&server, &made);
    let sign = |secret: &str| format!("sha256={}", hex::encode(hmac(secret.as_bytes(), body)));
    let right = sign("chosen elsewhere");
    let id = accepted(&server, &path, &[("x-hub-signature-256", &right), ("x-github-delivery", "g1")], body);
    assert_eq!(accepted(&server, &path, &[("x-hub-signature-256", &right), ("x-github-delivery", "g1")], body), id);
    refused(&post(&server, &path, &[("x-hub-signature-256", &sign("another one"))], body), 401, "signature_invalid");
    // As Stripe does.
    let path =
        path_of(&server, &make(&server, &json!({ "name": "stripe", "verify": "stripe", "secret": "whsec_x1y2z3" })));
    let stripe = |time: u64| {
        let code = hmac(b"whsec_x1y2z3", &[format!("{time}.").as_bytes(), body].concat());
        format!("t={time},v1={}", hex::encode(code))
    };
    accepted(&server, &path, &[("stripe-signature", &stripe(now_s()))], body);
    refused(&post(&server, &path, &[("stripe-signature", &stripe(now_s() - 301))], body), 401, "timestamp_invalid");
    assert_eq!(jobs(&server), 3);
}

#[test]
fn a_wrong_url_is_as_one_that_never_was_whatever_is_wrong() {
    let server = start();
    let path = path_of(&server, &make(&server, &json!({ "name": "a" })));
    let token = path.rsplit('/').next().unwrap();
    let mut answers = Vec::new();
    for wrong in [
        format!("/hooks/dev/task/a/{}", "x".repeat(43)),
        format!("/hooks/dev/task/b/{token}"),
        format!("/hooks/dev/other/a/{token}"),
        format!("/hooks/other/task/a/{token}"),
        format!("/hooks/dev/task/a/{token}/"),
        "/hooks/dev/task/a".into(),
        "/hooks/DEV/task/A/x".into(),
    ] {
        let answer = post(&server, &wrong, &[], b"{}");
        refused(&answer, 404, "hook_not_found");
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("request_id");
        answers.push(body);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    refused(&post(&server, &format!("/hooks/dev/task/../a/{token}"), &[], b""), 400, "path_invalid");
    let get = server.send_bare("GET", &path, &[], b"");
    refused(&get, 405, "method_not_allowed");
    let none = server.send_bare("GET", "/hooks/dev/none/a/x", &[], b"");
    refused(&none, 405, "method_not_allowed");
    assert_eq!(jobs(&server), 0);
}

#[test]
fn guessing_urls_is_bounded() {
    let server = Server::start_with(&Options { config: Some("[edge]\nwrong_keys_per_s = 1\n"), ..Options::default() });
    deploy(&server, "");
    let path = path_of(&server, &make(&server, &json!({ "name": "a" })));
    let statuses: Vec<u16> =
        (0..20).map(|at| post(&server, &format!("/hooks/dev/task/a/{at}"), &[], b"").status).collect();
    assert!(statuses.contains(&429) && statuses.iter().all(|status| matches!(status, 404 | 429)), "{statuses:?}");
    accepted(&server, &path, &[], b"{}");
}

#[test]
fn a_url_that_was_replaced_works_for_a_day_and_one_that_expired_does_not() {
    let server = start();
    let first = path_of(&server, &make(&server, &json!({ "name": "a" })));
    let rotated = ask(&server, "POST", "hooks/a/rotate", &Value::Null);
    assert!(rotated.status == 200 && rotated.json()["previous_url_until"].is_string(), "{}", rotated.text());
    let second = path_of(&server, &rotated.json());
    assert_ne!(first, second);
    accepted(&server, &first, &[("webhook-id", "1")], b"{}");
    accepted(&server, &second, &[("webhook-id", "2")], b"{}");
    let third = path_of(&server, &ask(&server, "POST", "hooks/a/rotate", &json!({ "secret": false })).json());
    refused(&post(&server, &first, &[], b"{}"), 404, "hook_not_found");
    accepted(&server, &second, &[("webhook-id", "3")], b"{}");
    accepted(&server, &third, &[("webhook-id", "4")], b"{}");
    refused(&ask(&server, "POST", "hooks/a/rotate", &json!({ "secret": true })), 400, "invalid_request");
    refused(&ask(&server, "POST", "hooks/none/rotate", &Value::Null), 404, "hook_not_found");

    let made = make(&server, &json!({ "name": "signed", "verify": "standard" }));
    let (path, before) = (path_of(&server, &made), made["secret"].as_str().unwrap().to_owned());
    let rotated = ask(&server, "POST", "hooks/signed/rotate", &json!({ "secret": true })).json();
    assert!(rotated["url"].is_null() && rotated["previous_secret_until"].is_string(), "{rotated}");
    for (id, secret) in [("s1", before.as_str()), ("s2", rotated["secret"].as_str().unwrap())] {
        let fields = standard(secret, id, now_s(), b"{}");
        accepted(&server, &path, &as_headers(&fields), b"{}");
    }

    let short = path_of(&server, &make(&server, &json!({ "name": "short", "expires_s": 1 })));
    wait_until("it has expired", || post(&server, &short, &[], b"{}").status == 404);
}

#[test]
fn hooks_have_limits_and_changing_them_needs_the_scope_to_deploy() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let key = server.tenant("acme", &json!({ "hooks": 1 }));
    assert!(server.put(&key, "task", "task", "", "").status < 300);
    let call = |key: &str, method: &str, path: &str, body: &str| {
        server.send_bare(method, &format!("/v2/task/{path}"), &[("x-gannet-key", key)], body.as_bytes())
    };
    let invoke = server.control(&key, "POST", "tenants/acme/keys", &json!({ "scopes": ["invoke", "read"] }));
    let invoke = invoke.json()["key"].as_str().unwrap().to_owned();
    refused(&call(&invoke, "POST", "hooks", r#"{"name": "a"}"#), 403, "forbidden");
    refused(&server.send_bare("GET", "/v2/task/hooks", &[], b""), 401, "unauthorized");
    let made = call(&key, "POST", "hooks", r#"{"name": "a"}"#);
    assert_eq!(made.status, 200, "{}", made.text());
    assert_eq!(call(&invoke, "GET", "hooks", "").json()["hooks"].as_array().unwrap().len(), 1);
    refused(&call(&key, "POST", "hooks", r#"{"name": "a"}"#), 409, "hook_exists");
    let full = call(&key, "POST", "hooks", r#"{"name": "b"}"#);
    refused(&full, 429, "tenant_limit");
    assert!(full.json()["error"].as_str().unwrap().contains("hooks = 1; in use: 1"), "{}", full.text());
    let limits = server.control(&key, "GET", "limits", &Value::Null).json();
    assert_eq!((&limits["used"]["hooks"], &limits["used"]["schedules"]), (&json!(1), &json!(0)), "{limits}");
    for (body, part) in [
        (r#"{"name": "A"}"#, "hook name"),
        (r#"{"name": "b", "path": "/a/../b"}"#, "segments"),
        (r#"{"name": "b", "webhook": "ftp://x"}"#, "absolute http or https URL"),
        (r#"{"name": "b", "verify": "magic"}"#, "unknown variant"),
    ] {
        let bad = call(&key, "POST", "hooks", body);
        refused(&bad, 400, "invalid_request");
        assert!(bad.text().contains(part), "{}", bad.text());
    }
    // What is posted to a suspended tenant's hook is not accepted, and a deleted function has none.
    let url = made.json()["url"].as_str().unwrap().strip_prefix(&server.url).unwrap().to_owned();
    let operator = server.operator();
    assert_eq!(server.control(&operator, "POST", "tenants/acme/suspend", &Value::Null).status, 200);
    refused(&post(&server, &url, &[], b"{}"), 403, "tenant_suspended");
    refused(&post(&server, &format!("{url}x"), &[], b"{}"), 404, "hook_not_found");
    assert_eq!(server.control(&operator, "POST", "tenants/acme/resume", &Value::Null).status, 200);
    accepted(&server, &url, &[], b"{}");
    assert_eq!(server.control(&key, "DELETE", "functions/task", &Value::Null).status, 200);
    refused(&post(&server, &url, &[], b"{}"), 404, "hook_not_found");
    assert!(server.put(&key, "task", "task", "", "").status < 300);
    refused(&post(&server, &url, &[], b"{}"), 404, "hook_not_found");
    assert_eq!(server.control(&key, "GET", "limits", &Value::Null).json()["used"]["hooks"], 0);
}

#[test]
fn a_full_queue_and_a_large_body_are_refused_so_that_senders_send_again() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let key = server.tenant("acme", &json!({ "jobs_queued": 2 }));
    assert!(server.put(&key, "task", "task", "", "").status < 300);
    let headers = [("x-gannet-key", key.as_str())];
    assert_eq!(server.send_bare("POST", "/v2/task/pause", &headers, b"").status, 200);
    let made = server.send_bare("POST", "/v2/task/hooks", &headers, br#"{"name": "a"}"#).json();
    let path = path_of(&server, &made);
    for body in [&b"1"[..], b"2"] {
        accepted(&server, &path, &[], body);
    }
    let full = post(&server, &path, &[], b"3");
    refused(&full, 429, "tenant_limit");
    assert_eq!(full.header("retry-after"), "5");
    // One that is known is no new job.
    accepted(&server, &path, &[], b"2");
    let large = post(&server, &path, &[], &vec![b'x'; (10 << 20) + 1]);
    refused(&large, 413, "body_too_large");
    assert!(large.json()["hint"].is_null(), "{}", large.text());
    let exact = post(&server, &path, &[], &vec![b'x'; 10 << 20]);
    refused(&exact, 429, "tenant_limit");
}

#[test]
fn the_url_of_a_hook_is_in_no_log_and_each_change_is_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let config = LOGGED.replace("LOG", log.to_str().unwrap());
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    deploy(&server, "");
    let made = make(&server, &json!({ "name": "a", "verify": "hmac-sha256" }));
    let path = path_of(&server, &made);
    let (token, secret) = (path.rsplit('/').next().unwrap(), made["secret"].as_str().unwrap());
    refused(&post(&server, &path, &[], b"{}"), 401, "signature_invalid");
    refused(&post(&server, &format!("{path}?a=b/../c"), &[], b"{}"), 401, "signature_invalid");
    assert_eq!(ask(&server, "POST", "hooks/a/rotate", &Value::Null).status, 200);
    assert_eq!(ask(&server, "POST", "pause", &Value::Null).status, 200);
    assert_eq!(ask(&server, "POST", "resume", &Value::Null).status, 200);
    let schedule = json!({ "name": "s", "cron": "@yearly" });
    assert_eq!(ask(&server, "POST", "schedules", &schedule).status, 200);
    assert_eq!(ask(&server, "POST", "schedules/s/run", &Value::Null).status, 200);
    assert_eq!(ask(&server, "DELETE", "schedules/s", &Value::Null).status, 200);
    assert_eq!(ask(&server, "DELETE", "hooks/a", &Value::Null).status, 200);
    refused(&ask(&server, "DELETE", "hooks/a", &Value::Null), 404, "hook_not_found");
    let audit = server.get_json("/api/v1/audit");
    let actions: Vec<(&str, u64)> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["status"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("deleteHook", 404),
        ("deleteHook", 200),
        ("deleteSchedule", 200),
        ("runSchedule", 200),
        ("makeSchedule", 200),
        ("resumeJobs", 200),
        ("pauseJobs", 200),
        ("rotateHook", 200),
        ("makeHook", 200),
        ("deployFunction", 201),
    ];
    assert_eq!(actions, expected);
    let metrics = server.send("GET", "/metrics", &[], b"").text();
    let mut access = String::new();
    wait_until("the log has all lines", || {
        access = std::fs::read_to_string(&log).unwrap_or_default();
        access.contains("signature_invalid") && access.lines().count() > 10
    });
    for (what, told) in [("audit", audit.to_string()), ("metrics", metrics), ("access log", access)] {
        assert!(!told.contains(token) && !told.contains(secret), "{what}: {told}");
    }
}

#[test]
fn a_command_makes_lists_rotates_and_deletes_hooks() {
    let server = start();
    let run = |arguments: &[&str]| {
        let output = server.cli(arguments);
        (output.status.code(), text(&output.stdout).trim_end().to_owned(), text(&output.stderr))
    };
    let (code, url, told) = run(&["hook", "add", "task", "a", "--window", "0s", "--expires", "90d"]);
    assert!(code == Some(0) && told.contains("its URL is shown only this once"), "{told}");
    accepted(&server, url.strip_prefix(&server.url).unwrap(), &[], b"{}");
    let (_, both, _) =
        run(&["hook", "add", "task", "b", "--verify", "hmac-sha256", "--webhook", "https://example.org/x"]);
    assert!(both.lines().count() == 2 && both.lines().nth(1).unwrap().starts_with("whsec_"), "{both}");
    let (_, table, _) = run(&["hooks", "list", "task"]);
    assert!(table.contains("hmac-sha256") && table.contains("https://example.org/x"), "{table}");
    let (_, json, _) = run(&["hook", "list", "task", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["hooks"].as_array().unwrap().len(), 2);
    let (_, other, _) = run(&["hook", "rotate", "task", "a"]);
    assert!(other != url && other.starts_with(&server.url), "{other}");
    let (_, secret, told) = run(&["hook", "rotate", "task", "b", "--secret"]);
    assert!(secret.starts_with("whsec_") && told.contains("its secret is shown only this once"), "{told}");
    let (code, _, told) = run(&["hook", "delete", "task", "a"]);
    assert!(code == Some(0) && told.contains("the hook a of task was deleted"), "{told}");
    let (code, _, told) = run(&["hook", "delete", "task", "a"]);
    assert!(code == Some(1) && told.contains("(hook_not_found)"), "{told}");
    let (code, _, told) = run(&["hook", "add", "task", "b"]);
    assert!(code == Some(1) && told.contains("(hook_exists)"), "{told}");
    let (code, _, _) = run(&["hook", "add", "task", "c", "--verify", "magic"]);
    assert_eq!(code, Some(2));
}
