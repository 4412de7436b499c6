//! OpenAI's paths in the front door. `tests/clients/models` compares what models generate.

use crate::support::{KEY, Options, Response, Server, wait_until};
use serde_json::{Value, json};

fn server() -> Server {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    assert_eq!(server.put(KEY, "hello", "model", "[http]\nopenai = true\n", "").status, 201);
    assert_eq!(server.put(KEY, "hello", "plain", "", "").status, 201);
    server
}

fn post(server: &Server, path: &str, body: &Value) -> Response {
    server.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
}

/// Checks that this is an error in OpenAI's format, and that its message contains `part`.
#[track_caller]
fn refused(answer: &Response, status: u16, code: &str, part: &str) {
    let body = answer.json();
    assert_eq!((answer.status, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!((answer.header("content-type"), answer.header("x-gannet-error")), ("application/json", code));
    assert!(body["error"]["message"].as_str().unwrap().contains(part) && body["error"]["type"].is_string(), "{body}");
}

#[test]
fn a_model_is_a_function_that_says_so() {
    let server = server();
    let models = server.get_json("/openai/v1/models");
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!((models["object"].clone(), ids), (json!("list"), vec![json!("model")]));
    assert_eq!(server.get_json("/openai/v1/models/model")["object"], "model");
    let get = |path: &str| server.send("GET", path, &[], b"");
    refused(&get("/openai/v1/models/plain"), 404, "model_not_found", "\"plain\"");
    let chat = "/openai/v1/chat/completions";
    assert_eq!(post(&server, chat, &json!({ "model": "model" })).status, 200);
    assert_eq!(post(&server, chat, &json!({ "model": "model@v1" })).status, 200);
    refused(&post(&server, chat, &json!({ "model": "none" })), 404, "model_not_found", "\"none\"");
    refused(&post(&server, chat, &json!({ "model": "plain" })), 404, "model_not_found", "\"plain\"");
    refused(&post(&server, chat, &json!({})), 400, "model_needed", "names no model");
    for wrong in ["{", "", "[]", r#"{"model": 5}"#, r#"{"model": "a", "model": "b"}"#] {
        let answer = server.send("POST", chat, &[("content-type", "application/json")], wrong.as_bytes());
        refused(&answer, 400, "body_invalid", "JSON");
    }
    for method in ["GET", "PUT", "DELETE"] {
        refused(&server.send(method, chat, &[], b""), 405, "method_not_allowed", method);
    }
    assert_eq!(server.get_json("/openai/v1/models/model@v1")["id"], "model@v1");
    refused(&get("/openai/v1/models/model@v9"), 404, "model_not_found", "model@v9");
    assert_eq!(server.send("HEAD", "/openai/v1/models", &[], b"").status, 200);
    // A path that names a function reaches it, whatever the body contains.
    assert_eq!(post(&server, "/v2/plain/openai/v1/chat/completions", &json!({})).status, 200);
    refused(&post(&server, "/v2/none/openai/v1/x", &json!({})), 404, "model_not_found", "\"none\"");
    let bare = server.send_bare("GET", "/openai/v1/models", &[], b"");
    refused(&bare, 401, "unauthorized", "a key is needed");
    let wrong = server.send_bare("GET", "/openai/v1/models", &[("authorization", "Bearer gnt_dev_wrong")], b"");
    refused(&wrong, 401, "unauthorized", "");
    let bearer = ("authorization", "Bearer gnt_dev_local");
    assert_eq!(server.send_bare("GET", "/openai/v1/models", &[bearer], b"").status, 200);
}

#[test]
fn a_key_for_one_function_sees_and_calls_that_model_only() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), not_dev: true, ..Options::default() });
    let key = server.tenant("acme", &json!({}));
    for name in ["one", "two"] {
        assert_eq!(server.put(&key, "hello", name, "[http]\nopenai = true\n", "").status, 201);
    }
    let made = server.control(&key, "POST", "tenants/acme/keys", &json!({ "function": "one", "scopes": ["invoke"] }));
    let only = made.json()["key"].as_str().unwrap().to_owned();
    let send = |key: &str, method: &str, path: &str, body: &str| {
        server.send_bare(method, path, &[("x-gannet-key", key)], body.as_bytes())
    };
    let models = send(&only, "GET", "/openai/v1/models", "").json();
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
    assert_eq!(send(&only, "POST", "/openai/v1/x", r#"{"model":"one"}"#).status, 200);
    assert_eq!(send(&only, "POST", "/openai/v1/x", r#"{"model":"two"}"#).status, 403);
    // Another tenant's model does not exist.
    let other = server.tenant("zoo", &json!({}));
    refused(&send(&other, "POST", "/openai/v1/x", r#"{"model":"one"}"#), 404, "model_not_found", "\"one\"");
}

#[test]
fn a_key_of_another_service_is_told_as_wrong() {
    let server = server();
    for path in ["/openai/v1/chat/completions", "/openai/v1/models"] {
        let method = if path.ends_with("models") { "GET" } else { "POST" };
        let headers = [("authorization", "Bearer sk-proj-1234"), ("content-type", "application/json")];
        let answer = server.send_bare(method, path, &headers, br#"{"model":"chat"}"#);
        refused(&answer, 401, "unauthorized", "not one of this server's");
        refused(&server.send_bare(method, path, &headers[1..], b"{}"), 401, "unauthorized", "a key is needed");
    }
}

#[test]
fn a_body_that_is_costly_as_a_tree_is_only_skipped() {
    let server = server();
    // The most memory that the front door has had so far, in KiB.
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let items = r#"{"":0},"#.repeat((15 << 20) / 7);
    let body = format!(r#"{{"model":"nothing","stream":[{items} 0],"more":[{}]}}"#, "[".repeat(100) + &"]".repeat(100));
    let before = peak();
    let answer =
        server.send("POST", "/openai/v1/chat/completions", &[("content-type", "application/json")], body.as_bytes());
    refused(&answer, 404, "model_not_found", "nothing");
    let grown = peak() - before;
    assert!(grown < 100 << 10, "{grown} KiB for a body of {} KiB", body.len() >> 10);
}

#[test]
fn a_stream_that_must_wait_is_kept_alive_and_its_error_is_an_event() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    let manifest = "[http]\nopenai = true\n[limits]\nconcurrency = 1\nqueue_ms = 2500\n";
    assert_eq!(server.put(KEY, "stream", "slow", manifest, "").status, 201);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.call("slow", "/?count=3&every_ms=2000", b""));
        wait_until("the first request runs", || server.get_json("/api/v1/limits")["used"]["concurrency"] == 1);
        let waiting = post(&server, "/openai/v1/chat/completions", &json!({ "model": "slow", "stream": true }));
        assert_eq!((waiting.status, waiting.header("content-type")), (200, "text/event-stream"));
        let text = waiting.text();
        let (comment, event) = text.split_once("\n\n").unwrap();
        assert!(comment.starts_with(':'), "{text}");
        let error: Value = serde_json::from_str(event.trim().strip_prefix("data: ").unwrap()).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains("limits.queue_ms = 2500"), "{error}");
        assert_eq!(first.join().unwrap().status, 200);
    });
}

#[test]
fn a_stream_is_kept_alive_until_its_first_event() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    assert_eq!(server.put(KEY, "faulty", "late", "", "").status, 201);
    let answer = post(&server, "/v2/late/openai/late?ms=5500", &json!({ "stream": true }));
    let text = answer.text();
    assert_eq!((answer.status, answer.header("x-gannet-start")), (200, "cold"), "the head is the function's own");
    assert!(text.starts_with(": ") && text.ends_with("\n\ndata: late\n\n"), "{text}");
    let soon = post(&server, "/v2/late/openai/late?ms=1", &json!({ "stream": true }));
    assert_eq!(soon.text(), "data: late\n\n");
}

#[test]
fn a_stream_whose_client_takes_nothing_ends_with_its_time() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    let manifest = "[limits]\nconcurrency = 1\ntimeout_ms = 4000\n";
    assert_eq!(server.put(KEY, "faulty", "slow", manifest, "").status, 201);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let held = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::post(format!("{}/v2/slow/openai/nap?ms=60000", server.url))
            .header("x-gannet-key", KEY)
            .body(http_body_util::Full::new(bytes::Bytes::from_static(b"{\"stream\": true}")))
            .unwrap();
        (sender.send_request(request).await.unwrap(), sender)
    });
    assert_eq!(held.0.status().as_u16(), 200, "the server sends comments, and the client reads none of them");
    wait_until("its timeout has passed", || server.get_json("/api/v1/limits")["used"]["concurrency"] == 0);
    let id = held.0.headers()["x-request-id"].to_str().unwrap();
    let receipt = server.get_json(&format!("/api/v1/requests/{id}"));
    assert_eq!(receipt["error"], "deadline_exceeded", "{receipt}");
    drop(held);
}
