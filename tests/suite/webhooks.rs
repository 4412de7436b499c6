//! Webhooks of jobs: what is delivered, how it is signed, what is tried again, and what may not be reached.

use crate::support::receiver::{Message, Receiver};
use crate::support::{KEY, Options, Response, Server, text, wait_until};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

const OPEN: &str = "[egress]\nallow_ranges = [\"127.0.0.0/8\"]\n[webhooks]\nfirst_retry_ms = 100\n";

fn start(config: &str, data: Option<&Path>) -> Server {
    Server::start_with(&Options { config: Some(config), data, ..Options::default() })
}

fn deploy(server: &Server, manifest: &str) {
    let deployed = server.put(KEY, "task", "task", manifest, "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Response {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    server.send(method, &format!("/v2/task/{path}"), &[], text.as_bytes())
}

fn submit(server: &Server, input: &Value, webhook: &str) -> String {
    let answer = ask(server, "POST", "run", &json!({ "input": input, "webhook": webhook }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn secret(server: &Server) -> String {
    let secret = server.get_json("/api/v1/webhooks/secret");
    secret["secret"].as_str().unwrap().to_owned()
}

fn listed(server: &Server, status: &str) -> Vec<Value> {
    let list = server.get_json(&format!("/v2/task/webhooks?status={status}"));
    list["webhooks"].as_array().unwrap().clone()
}

/// Waits until a job's webhook was given up, and returns why.
fn given_up(server: &Server, id: &str) -> String {
    let find = || listed(server, "dead").into_iter().find(|dead| dead["job"] == id);
    wait_until("it is given up", || find().is_some());
    let dead = find().unwrap();
    assert!(dead["diedAt"].is_string() && dead["nextAt"].is_null(), "{dead}");
    dead["lastError"].as_str().unwrap().to_owned()
}

/// Waits until nothing is to be delivered.
fn all_delivered(server: &Server) {
    wait_until("all is delivered", || listed(server, "pending").is_empty());
    assert!(listed(server, "dead").is_empty());
}

#[test]
fn each_end_of_a_job_is_delivered_signed_and_once() {
    let (server, receiver) = (start(OPEN, None), Receiver::start(&[]));
    deploy(&server, "[jobs]\ntimeout_s = 5\n");
    let secret = secret(&server);
    let check = |id: &str, state: &str| {
        let message = receiver.next();
        assert!(message.is_signed_with(&secret), "{:?}", message.headers);
        assert_eq!((&*message.headers["webhook-id"], &*message.headers["content-type"]), (id, "application/json"));
        let mut body = message.json();
        assert_eq!(body["status"], state, "{body}");
        let status = ask(&server, "GET", &format!("status/{id}"), &Value::Null).json();
        assert_eq!(body.take(), status, "what `status` says");
    };
    for (input, state) in [
        (json!({ "say": "x" }), "COMPLETED"),
        (json!({ "large": 1 << 20 }), "COMPLETED"),
        (json!({ "fail": "why" }), "FAILED"),
        (json!({ "sleep_ms": 30_000 }), "TIMED_OUT"),
    ] {
        check(&submit(&server, &input, &receiver.url()), state);
    }
    assert_eq!(ask(&server, "POST", "pause", &Value::Null).status, 200);
    let cancelled = submit(&server, &json!({ "say": 1 }), &receiver.url());
    assert_eq!(ask(&server, "POST", &format!("cancel/{cancelled}"), &Value::Null).status, 200);
    check(&cancelled, "CANCELLED");
    let purged = submit(&server, &json!({ "say": 2 }), &receiver.url());
    assert_eq!(ask(&server, "POST", "purge-queue", &Value::Null).json()["removed"], 1);
    check(&purged, "CANCELLED");
    all_delivered(&server);
    receiver.stays_silent();
}

#[test]
fn a_delivery_is_tried_again_and_what_is_gone_is_given_up() {
    let redirect = "302 Found\r\nlocation: http://169.254.169.254/latest";
    let receiver = Receiver::start(&["500 Error", "200 OK", "410 Gone", redirect]);
    let server = start(OPEN, None);
    deploy(&server, "");
    let id = submit(&server, &json!({ "say": "x" }), &receiver.url());
    let (first, second) = (receiver.next(), receiver.next());
    assert_eq!((&first.body, &first.headers["webhook-id"]), (&second.body, &second.headers["webhook-id"]));
    assert!(second.is_signed_with(&secret(&server)) && first.headers["webhook-id"] == id);
    all_delivered(&server);

    let gone = submit(&server, &json!({ "say": "x" }), &receiver.url());
    receiver.next();
    assert!(given_up(&server, &gone).contains("410"));
    let redirected = submit(&server, &json!({ "say": "x" }), &receiver.url());
    receiver.next();
    // The second try is answered with 200.
    assert_eq!(receiver.next().headers["webhook-id"], redirected);
    wait_until("it is delivered", || listed(&server, "pending").is_empty());
    assert_eq!(listed(&server, "dead").len(), 1);

    let again = ask(&server, "POST", &format!("webhooks/{gone}/redeliver"), &Value::Null);
    assert_eq!((again.status, &again.json()["status"]), (200, &json!("pending")), "{}", again.text());
    assert_eq!(receiver.next().headers["webhook-id"], gone);
    all_delivered(&server);
    let unknown = ask(&server, "POST", "webhooks/01890000-0000-7000-8000-000000000000/redeliver", &Value::Null);
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!("webhook_not_found")), "{}", unknown.text());
    receiver.stays_silent();
}

#[test]
fn private_addresses_are_never_reached_and_bad_ones_are_refused_at_submission() {
    let receiver = Receiver::start(&[]);
    let server = start("", None);
    deploy(&server, "");
    let port = receiver.address.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"] {
        let id = submit(&server, &json!({ "say": "x" }), &format!("http://{host}:{port}/hook"));
        let why = given_up(&server, &id);
        assert!(why.contains("no address that may be reached"), "{host}: {why}");
        let dropped = ask(&server, "DELETE", &format!("webhooks/{id}"), &Value::Null);
        assert_eq!(dropped.status, 200, "{}", dropped.text());
    }
    assert!(listed(&server, "dead").is_empty());
    for bad in ["hook", "ftp://example.org/", "http://me:key@example.org/", "http://example.org/#part", "http://"] {
        let refused = ask(&server, "POST", "run", &json!({ "input": 1, "webhook": bad }));
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("invalid_request")), "{bad}");
    }
    receiver.stays_silent();
}

#[test]
fn a_receiver_that_redirects_to_itself_or_hangs_is_asked_once_for_each_try() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, own) = (format!("http://{}/hook", hanging.local_addr().unwrap()), "302 Found\r\nlocation: /hook");
    let receiver = Receiver::start(&[own]);
    let config = OPEN.replace("first_retry_ms = 100", "first_retry_ms = 3600000");
    let server = start(&config, None);
    deploy(&server, "");
    let looping = submit(&server, &json!({ "say": "x" }), &receiver.url());
    let hung = submit(&server, &json!({ "say": "x" }), &url);
    assert_eq!(receiver.next().headers["webhook-id"], looping);
    let (mut stream, _) = hanging.accept().unwrap();
    assert_eq!(Message::read(&mut stream).headers["webhook-id"], hung);
    let of = |id: &str| listed(&server, "pending").into_iter().find(|one| one["job"] == id).unwrap();
    wait_until("both have failed once", || [&looping, &hung].iter().all(|id| of(id)["tries"] == 1));
    let why = |id: &str| of(id)["lastError"].as_str().unwrap().to_owned();
    assert!(why(&looping).contains("status 302; redirects are not followed"), "{}", why(&looping));
    assert!(why(&hung).contains("did not answer in time"), "{}", why(&hung));
    receiver.stays_silent();
}

#[test]
fn the_end_of_a_batch_is_delivered_signed_and_once() {
    let (server, receiver) = (start(OPEN, None), Receiver::start(&["500 Error"]));
    deploy(&server, "[jobs]\nretries = 0\n");
    let secret = secret(&server);
    let body = json!({ "inputs": [{ "say": 1 }, { "fail": "why" }], "webhook": receiver.url() });
    let made = ask(&server, "POST", "batches", &body);
    assert_eq!(made.status, 200, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let (first, second) = (receiver.next(), receiver.next());
    assert!(first.is_signed_with(&secret) && second.is_signed_with(&secret));
    for message in [&first, &second] {
        let told = message.json();
        assert_eq!((&message.headers["webhook-id"], &told["id"]), (&id, &json!(id)), "{told}");
        assert_eq!((&told["status"], &told["counts"]["completed"]), (&json!("COMPLETED"), &json!(1)), "{told}");
        assert_eq!((&told["counts"]["failed"], &told["counts"]["total"]), (&json!(1), &json!(2)), "{told}");
    }
    all_delivered(&server);
    // What is retried has another end.
    assert_eq!(ask(&server, "POST", &format!("batches/{id}/retry"), &Value::Null).json()["retried"], 1);
    assert_eq!(receiver.next().headers["webhook-id"], format!("{id}-1"));
    // One that is cancelled is told when what runs has ended, one that is left open when it is closed.
    let open = json!({ "inputs": [{ "say": 1 }], "more": true, "webhook": receiver.url() });
    let open = ask(&server, "POST", "batches", &open).json()["id"].as_str().unwrap().to_owned();
    let status = || ask(&server, "GET", &format!("batches/{open}"), &Value::Null).json();
    wait_until("its item has ended", || status()["counts"]["completed"] == 1);
    all_delivered(&server);
    let lines = server.send(
        "POST",
        &format!("/v2/task/batches?more=true&webhook=http%3A%2F%2F{}%2Fhook", receiver.address),
        &[("content-type", "application/x-ndjson")],
        b"{\"spin\": true}\n{\"spin\": true}\n",
    );
    assert_eq!(lines.status, 200, "{}", lines.text());
    let spinning = lines.json()["id"].as_str().unwrap().to_owned();
    let counts = || ask(&server, "GET", &format!("batches/{spinning}"), &Value::Null).json()["counts"].clone();
    wait_until("an item runs", || counts()["in_progress"].as_u64() > Some(0));
    assert_eq!(ask(&server, "POST", &format!("batches/{spinning}/cancel"), &Value::Null).json()["status"], "CANCELLED");
    let items = ask(&server, "GET", "jobs?status=IN_PROGRESS", &Value::Null).json();
    for item in items["jobs"].as_array().unwrap() {
        ask(&server, "POST", &format!("cancel/{}", item["id"].as_str().unwrap()), &Value::Null);
    }
    let message = receiver.next();
    assert_eq!((&message.headers["webhook-id"], &message.json()["status"]), (&spinning, &json!("CANCELLED")));
    assert_eq!(message.json()["counts"]["cancelled"], 2);
    assert_eq!(ask(&server, "POST", &format!("batches/{open}/close"), &Value::Null).status, 200);
    assert_eq!(receiver.next().headers["webhook-id"], open);
    all_delivered(&server);
    let again = ask(&server, "POST", &format!("webhooks/{id}/redeliver"), &Value::Null);
    assert_eq!((again.status, &again.json()["batch"]), (200, &json!(id)), "{}", again.text());
    assert_eq!(receiver.next().headers["webhook-id"], format!("{id}-1"));
    receiver.stays_silent();
}

#[test]
fn a_crash_loses_no_end_of_a_batch_and_dead_letters_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let config = OPEN.replace("first_retry_ms = 100", "first_retry_ms = 2000");
    let server = start(&config, Some(&data));
    deploy(&server, "");
    let body = json!({ "inputs": [{ "say": 1 }, { "say": 2 }], "webhook": format!("http://{address}/hook") });
    let id = ask(&server, "POST", "batches", &body).json()["id"].as_str().unwrap().to_owned();
    wait_until("its first try has failed", || listed(&server, "pending").iter().any(|one| one["batch"] == id));
    server.kill();
    drop(server);
    let receiver = Receiver::over(TcpListener::bind(address).unwrap(), &["410 Gone"], Duration::ZERO);
    let server = start(&config, Some(&data));
    let message = receiver.next();
    assert_eq!((&message.headers["webhook-id"], &message.json()["counts"]["completed"]), (&id, &json!(2)));
    wait_until("it is given up", || {
        listed(&server, "dead").iter().any(|one| one["batch"] == id && one["job"].is_null())
    });
    let dropped = ask(&server, "DELETE", &format!("webhooks/{id}"), &Value::Null);
    assert_eq!(dropped.json(), json!({ "batch": id, "dropped": true }), "{}", dropped.text());
    assert!(listed(&server, "dead").is_empty());
    receiver.stays_silent();
}

#[test]
fn commands_list_repeat_and_drop_deliveries_and_show_the_secret() {
    let receiver = Receiver::start(&["410 Gone"]);
    let server = start(OPEN, None);
    deploy(&server, "");
    let run = |arguments: &[&str]| {
        let output = server.cli(arguments);
        (output.status.code(), text(&output.stdout).trim_end().to_owned(), text(&output.stderr))
    };
    let id = submit(&server, &json!({ "say": "x" }), &receiver.url());
    given_up(&server, &id);
    let (code, table, _) = run(&["webhook", "list", "task", "--status", "dead"]);
    assert!(code == Some(0) && table.contains(&id) && table.contains("410"), "{table}");
    let (_, json, _) = run(&["webhooks", "ls", "task", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["webhooks"][0]["job"], id);
    let (code, _, told) = run(&["webhook", "redeliver", "task", &id]);
    assert!(code == Some(0) && told.contains(&receiver.url()), "{told}");
    receiver.next();
    receiver.next();
    all_delivered(&server);
    let (code, _, told) = run(&["webhook", "drop", "task", &id]);
    assert!(code == Some(1) && told.contains("(webhook_not_found)"), "{told}");
    let (_, first, _) = run(&["webhook", "secret"]);
    assert!(first == secret(&server) && first.starts_with("whsec_"), "{first}");
    let (_, second, told) = run(&["webhook", "secret", "--rotate"]);
    assert!(second != first && told.contains("signs too until"), "{told}");
    let (_, json, _) = run(&["webhook", "secret", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["secret"], second);
    assert_eq!(run(&["webhook", "list", "task", "--status", "lost"]).0, Some(2));
}

#[test]
fn commands_submit_jobs_and_batches_with_an_address_for_their_ends() {
    let (server, receiver) = (start(OPEN, None), Receiver::start(&[]));
    deploy(&server, "");
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("in.jsonl");
    std::fs::write(&lines, "{\"say\": 1}\n{\"say\": 2}\n").unwrap();
    let (address, lines) = (receiver.url(), lines.to_str().unwrap());
    for arguments in [
        &["job", "submit", "task", "-d", r#"{"say": "x"}"#][..],
        &["job", "submit", "task", "-d", r#"{"say": "x"}"#, "--sync", "--json"],
        &["batch", "submit", "task", lines],
    ] {
        let output = server.cli(&[arguments, &["--webhook", &address]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        let printed = text(&output.stdout);
        let message = receiver.next();
        assert!(printed.contains(&message.headers["webhook-id"]), "{arguments:?}: {printed}");
        assert_eq!(message.json()["status"], "COMPLETED");
    }
    receiver.stays_silent();
}

#[test]
fn a_slow_receiver_is_called_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let receiver = Receiver::over(listener, &[], Duration::from_secs(29));
    let server = start(OPEN, None);
    deploy(&server, "");
    submit(&server, &json!({ "say": "x" }), &receiver.url());
    receiver.next();
    all_delivered(&server);
    receiver.stays_silent();
}

#[test]
fn a_crash_loses_no_delivery_and_repeats_none() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let config = OPEN.replace("first_retry_ms = 100", "first_retry_ms = 2000");
    let (closed, open) = (TcpListener::bind("127.0.0.1:0").unwrap(), Receiver::start(&[]));
    let address = closed.local_addr().unwrap();
    drop(closed);
    let server = start(&config, Some(&data));
    deploy(&server, "");
    let (secret, url) = (secret(&server), format!("http://{address}/hook"));
    let delivered = submit(&server, &json!({ "say": "x" }), &open.url());
    assert_eq!(open.next().headers["webhook-id"], delivered);
    all_delivered(&server);
    let lost = submit(&server, &json!({ "say": "y" }), &url);
    wait_until("its first try has failed", || listed(&server, "pending").iter().any(|one| one["tries"] == 1));
    server.kill();
    drop(server);
    let receiver = Receiver::over(TcpListener::bind(address).unwrap(), &[], Duration::ZERO);
    let server = start(&config, Some(&data));
    let message = receiver.next();
    assert_eq!(message.headers["webhook-id"], lost);
    assert!(message.is_signed_with(&secret) && message.json()["output"]["said"] == "y", "{}", message.json());
    all_delivered(&server);
    receiver.stays_silent();
    open.stays_silent();
}

#[test]
fn a_secret_can_be_replaced_and_the_one_before_signs_too() {
    let receiver = Receiver::start(&[]);
    let server = start(OPEN, None);
    deploy(&server, "");
    let first = secret(&server);
    assert_eq!(first, secret(&server), "it stays");
    let rotated = server.control(KEY, "POST", "webhooks/secret/rotate", &Value::Null);
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let second = secret(&server);
    assert!(rotated.json()["secret"] == *second && second != first && rotated.json()["previous_until"].is_string());
    submit(&server, &json!({ "say": "x" }), &receiver.url());
    let message = receiver.next();
    assert!(message.is_signed_with(&first) && message.is_signed_with(&second));
    let audit = server.get_json("/api/v1/audit").to_string();
    assert!(audit.contains("getWebhookSecret") && audit.contains("rotateWebhookSecret"), "{audit}");
    assert!(!audit.contains("whsec_"), "{audit}");
    let weak = server.control(KEY, "POST", "tenants/dev/keys", &json!({ "scopes": ["invoke", "read", "deploy"] }));
    let weak = weak.json()["key"].as_str().unwrap().to_owned();
    server.control(&weak, "GET", "webhooks/secret", &Value::Null).is_problem(403, "forbidden", "\"admin\"");
}
