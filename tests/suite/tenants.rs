//! Tenants, keys and the audit log.

use crate::support::{Options, Response, Server, wait_until};
use serde_json::{Value, json};
use std::io::{BufRead, Read, Write};

fn server() -> Server {
    Server::start_with(&Options { not_dev: true, config: Some("spares = 0"), ..Options::default() })
}

/// Returns the status and body of a refusal, without its request id.
fn said(answer: &Response) -> (u16, Value) {
    let mut problem = answer.json();
    problem.as_object_mut().unwrap().remove("request_id");
    (answer.status, problem)
}

#[test]
fn keys_have_scopes_a_function_and_an_end() {
    let server = server();
    let full = server.tenant("acme", &json!({}));
    for name in ["hello", "other"] {
        assert_eq!(server.put(&full, "hello", name, "", "").status, 201);
    }
    let key = |new: Value| {
        let made = server.control(&full, "POST", "tenants/acme/keys", &new);
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.json();
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    };
    let (invoke_id, invoke) = key(json!({ "scopes": ["invoke"] }));
    assert_eq!(server.call_as(&invoke, "/f/acme/hello", b"").status, 200);
    server.control(&invoke, "GET", "functions", &Value::Null).is_problem(403, "forbidden", "\"read\"");
    server.put(&invoke, "hello", "hello", "", "").is_problem(403, "forbidden", "\"deploy\"");
    server.control(&invoke, "GET", "secrets", &Value::Null).is_problem(403, "forbidden", "\"admin\"");
    let (_, read) = key(json!({ "scopes": ["read"] }));
    server.call_as(&read, "/f/acme/hello", b"").is_problem(403, "forbidden", "\"invoke\"");
    assert_eq!(server.control(&read, "GET", "functions", &Value::Null).status, 200);

    let (_, bound) = key(json!({ "function": "hello" }));
    assert_eq!(server.call_as(&bound, "/f/acme/hello", b"").status, 200);
    server.call_as(&bound, "/f/acme/other", b"").is_problem(403, "forbidden", "hello only");
    server.control(&bound, "DELETE", "functions/other", &Value::Null).is_problem(403, "forbidden", "hello only");
    server.control(&bound, "POST", "tenants/acme/keys", &json!({})).is_problem(403, "forbidden", "hello only");
    let listed = server.control(&bound, "GET", "functions", &Value::Null).json();
    assert_eq!(listed["functions"].as_array().unwrap().len(), 1);

    let (_, brief) = key(json!({ "expires_in_s": 1 }));
    wait_until("the key has ended", || server.call_as(&brief, "/f/acme/hello", b"").status == 401);
    let listed = server.control(&full, "GET", "tenants/acme/keys", &Value::Null);
    assert!(!listed.text().contains(&invoke), "a key is shown only once");
    let listed = listed.json();
    let of = |id: &str| listed["keys"].as_array().unwrap().iter().find(|key| key["id"] == id).unwrap().clone();
    assert_eq!((of(&invoke_id)["scopes"].clone(), of(&invoke_id)["last_used"].is_string()), (json!(["invoke"]), true));

    let rotated =
        server.control(&full, "POST", &format!("tenants/acme/keys/{invoke_id}/rotate"), &json!({ "overlap_s": 1 }));
    let next = rotated.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(server.call_as(&next, "/f/acme/hello", b"").status, 200);
    server.control(&next, "GET", "functions", &Value::Null).is_problem(403, "forbidden", "\"read\"");
    wait_until("the old one ends after the overlap", || server.call_as(&invoke, "/f/acme/hello", b"").status == 401);

    let id = rotated.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.control(&full, "DELETE", &format!("tenants/acme/keys/{id}"), &Value::Null).status, 200);
    server.call_as(&next, "/f/acme/hello", b"").is_problem(401, "unauthorized", "not valid");
    // A key never outlives the key that created or rotated it.
    let ending = key(json!({ "expires_in_s": 600, "requests_per_s": 7 })).1;
    let (lasting_id, _) = key(json!({ "scopes": ["read"] }));
    let rotated = server.control(&ending, "POST", &format!("tenants/acme/keys/{lasting_id}/rotate"), &json!({})).json();
    let made = server.control(&ending, "POST", "tenants/acme/keys", &json!({ "scopes": ["read"] })).json();
    let listed = server.control(&full, "GET", "tenants/acme/keys", &Value::Null).json();
    let of = |id: &Value| listed["keys"].as_array().unwrap().iter().find(|key| key["id"] == *id).unwrap().clone();
    for id in [&rotated["id"], &made["id"]] {
        assert!(of(id)["expires"].is_string() && of(id)["requests_per_s"] == 7, "{}", of(id));
    }

    let admin = key(json!({ "scopes": ["admin"] })).1;
    server.control(&admin, "POST", "tenants/acme/keys", &json!({})).is_problem(403, "forbidden", "that is to be made");
}

#[test]
fn a_tenant_never_learns_that_another_exists() {
    let server = server();
    let (acme, zoo) = (server.tenant("acme", &json!({})), server.tenant("zoo", &json!({})));
    assert_eq!(server.put(&acme, "hello", "hello", "", "").status, 201);
    let id = server.call_as(&acme, "/f/acme/hello", b"").header("x-request-id").to_owned();
    let nobody = uuid_of_nobody();
    for (method, real, none) in [
        ("GET", "tenants/acme/keys".to_owned(), "tenants/nobody/keys".to_owned()),
        ("POST", "tenants/acme/keys".to_owned(), "tenants/nobody/keys".to_owned()),
        ("GET", "tenants/acme/limits".to_owned(), "tenants/nobody/limits".to_owned()),
        ("DELETE", "tenants/acme".to_owned(), "tenants/nobody".to_owned()),
        ("POST", "tenants/acme/suspend".to_owned(), "tenants/nobody/suspend".to_owned()),
        ("GET", "functions/hello".to_owned(), "functions/none".to_owned()),
        ("GET", "functions/hello/logs".to_owned(), "functions/none/logs".to_owned()),
        ("GET", format!("requests/{id}"), format!("requests/{nobody}")),
    ] {
        let (real_said, none_said) =
            (server.control(&zoo, method, &real, &Value::Null), server.control(&zoo, method, &none, &Value::Null));
        assert!(real_said.status >= 400, "{method} {real}");
        assert_eq!(said(&real_said), said(&none_said), "{method} {real}");
    }
    assert_eq!(said(&server.call_as(&zoo, "/f/acme/hello", b"")), said(&server.call_as(&zoo, "/f/nobody/hello", b"")));
    assert_eq!(server.put(&zoo, "hello", "hello", "", "").json()["version"], 1, "each tenant counts its own versions");
    // Only the operator sees metrics of all tenants.
    let metrics = |key: &str| server.send_bare("GET", "/metrics", &[("x-gannet-key", key)], b"").status;
    assert_eq!((metrics(&server.operator()), metrics(&zoo)), (200, 404));
    assert_eq!(server.send_bare("GET", "/metrics", &[], b"").status, 401);
    // A tenant's own `x-gannet-tenant` header is ignored.
    let headers = [("x-gannet-key", zoo.as_str()), ("x-gannet-tenant", "acme")];
    let listed = server.send_bare("GET", "/api/v1/whoami", &headers, b"").json();
    assert_eq!(listed["tenant"], "zoo");
}

fn uuid_of_nobody() -> &'static str {
    "0199f2d0-0000-7000-8000-000000000000"
}

#[test]
fn a_suspended_tenant_is_stopped_at_once_and_resumes() {
    let server = server();
    let (operator, acme) = (server.operator(), server.tenant("acme", &json!({})));
    assert_eq!(server.put(&acme, "faulty", "faulty", "[http]\npublic = true\n", "").status, 201);
    assert_eq!(server.send_bare("GET", "/f/acme/faulty/say", &[], b"").status, 200);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.call_as(&acme, "/f/acme/faulty/sleep", b""));
        wait_until("the request runs", || {
            server.control(&operator, "GET", "tenants/acme", &Value::Null).json()["in_flight"] == 1
        });
        let told = server.control(&operator, "POST", "tenants/acme/suspend", &Value::Null);
        assert_eq!(told.json()["suspended"], true);
        assert!(running.join().unwrap().status >= 400, "running requests are ended");
    });
    server.call_as(&acme, "/f/acme/faulty/say", b"").is_problem(403, "tenant_suspended", "suspended");
    server.control(&acme, "GET", "functions", &Value::Null).is_problem(403, "tenant_suspended", "suspended");
    let stranger = server.send_bare("GET", "/f/acme/faulty/say", &[], b"");
    assert_eq!(said(&stranger), said(&server.send_bare("GET", "/f/nobody/faulty/say", &[], b"")));
    assert_eq!(server.control(&operator, "POST", "tenants/acme/resume", &Value::Null).status, 200);
    assert_eq!(server.call_as(&acme, "/f/acme/faulty/say", b"").text(), "said");
}

#[test]
fn a_deleted_tenant_is_gone_and_its_name_is_not_given_again() {
    let server = server();
    let (operator, acme) = (server.operator(), server.tenant("acme", &json!({})));
    assert_eq!(server.put(&acme, "hello", "hello", "", "").status, 201);
    assert_eq!(server.call_as(&acme, "/f/acme/hello", b"").status, 200);
    assert_eq!(server.control(&operator, "DELETE", "tenants/acme", &Value::Null).status, 200);
    server.call_as(&acme, "/f/acme/hello", b"").is_problem(401, "unauthorized", "not valid");
    assert!(!server.data.join("components/acme").exists());
    let again = server.control(&operator, "POST", "tenants", &json!({ "name": "acme" }));
    again.is_problem(409, "conflict", "bills identify tenants by name");
    // The operator can still read its usage and its audit log.
    let as_acme = |path: &str| {
        let headers = [("x-gannet-key", operator.as_str()), ("x-gannet-tenant", "acme")];
        server.send_bare("GET", &format!("/api/v1/{path}"), &headers, b"")
    };
    wait_until("its line is counted", || as_acme("usage").json()["total"]["requests"] == 1);
    assert!(as_acme("audit").text().contains("deployFunction"));
    assert_eq!(as_acme("functions").status, 404);
}

#[test]
fn a_key_for_one_function_deploys_only_what_it_may_read() {
    let server = server();
    let full = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&full, "hello", "hello", "", "").status, 201);
    let other = server.put(&full, "faulty", "other", "", "").json()["digest"].as_str().unwrap().to_owned();
    let bytes = [("x-gannet-key", full.as_str()), ("content-type", "application/octet-stream")];
    assert_eq!(server.send_bare("PUT", "/api/v1/assets/weights", &bytes, b"secret weights").status, 201);
    let made = server.control(&full, "POST", "tenants/acme/keys", &json!({ "function": "hello" })).json();
    let bound = made["key"].as_str().unwrap();
    let with_asset = "[assets]\nw = \"weights\"";
    server.put(bound, "hello", "hello", with_asset, "").is_problem(
        409,
        "conflict",
        "a key for one function cannot add",
    );
    let by_digest = |digest: &str| {
        let part = format!("--x\r\ncontent-disposition: form-data; name=\"digest\"\r\n\r\n{digest}\r\n--x--\r\n");
        let headers = [("x-gannet-key", bound), ("content-type", "multipart/form-data; boundary=x")];
        server.send_bare("PUT", "/api/v1/functions/hello", &headers, part.as_bytes())
    };
    by_digest(&other).is_problem(404, "not_found", "");
    // What somebody with a whole key gave the function may stay, and its own component may be named.
    let given = server.put(&full, "hello", "hello", with_asset, "");
    assert_eq!(given.status, 201, "{}", given.text());
    let again = server.put(bound, "hello", "hello", &format!("{with_asset}\n[limits]\ncpu_ms = 77"), "");
    assert_eq!(again.status, 201, "{}", again.text());
    let own = by_digest(given.json()["digest"].as_str().unwrap());
    assert!(own.status < 300, "{}", own.text());
}

#[test]
fn a_revoked_key_ends_the_stream_that_it_reads() {
    let server = server();
    let full = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&full, "stream", "stream", "", "").status, 201);
    let made = server.control(&full, "POST", "tenants/acme/keys", &json!({})).json();
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let key = made["key"].as_str().unwrap();
    let path = "/f/acme/stream/?count=9000&every_ms=50";
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {key}\r\n\r\n").unwrap();
    let mut reader = std::io::BufReader::new(stream);
    let mut id = String::new();
    let mut line = String::new();
    while !line.contains("chunk 2 of") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
        if let Some(value) = line.strip_prefix("x-request-id: ") {
            id = value.trim().to_owned();
        }
    }
    let revoked =
        server.control(&full, "DELETE", &format!("tenants/acme/keys/{}", made["id"].as_str().unwrap()), &Value::Null);
    assert_eq!(revoked.status, 200);
    let mut rest = String::new();
    let _ = reader.read_to_string(&mut rest);
    assert!(!rest.ends_with("0\r\n\r\n"), "it is cut, not complete");
    wait_until("its receipt says why", || {
        server.control(&full, "GET", &format!("requests/{id}"), &Value::Null).json()["error"] == "key_revoked"
    });
}

#[test]
fn a_key_that_is_revoked_while_its_request_runs_gets_no_answer() {
    let server = server();
    let full = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&full, "faulty", "faulty", "[limits]\ntimeout_ms = 20000\n", "").status, 201);
    let made = server.control(&full, "POST", "tenants/acme/keys", &json!({})).json();
    let key = made["key"].as_str().unwrap();
    let in_flight = || server.control(&full, "GET", "limits", &Value::Null).json()["used"]["concurrency"].clone();
    std::thread::scope(|scope| {
        let called = scope.spawn(|| server.call_as(key, "/f/acme/faulty/nap?ms=3000", b""));
        wait_until("the request runs", || in_flight() == 1);
        let path = format!("tenants/acme/keys/{}", made["id"].as_str().unwrap());
        assert_eq!(server.control(&full, "DELETE", &path, &Value::Null).status, 200);
        called.join().unwrap().is_problem(
            401,
            "key_revoked",
            "the key was revoked or has expired while the request ran",
        );
    });
    wait_until("its place is free", || in_flight() == 0);
    assert_eq!(server.call_as(&full, "/f/acme/faulty/nap?ms=1", b"").text(), "napped");
}

#[test]
fn the_cause_of_a_failure_of_the_server_is_for_its_log_only() {
    let server = server();
    let acme = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&acme, "hello", "hello", "", "").status, 201);
    for folder in ["components", "compiled"] {
        let _ = std::fs::remove_dir_all(server.data.join(folder).join("acme"));
    }
    let failed = server.call_as(&acme, "/f/acme/hello", b"");
    failed.is_problem(500, "internal", "the server failed; its log has the cause");
    assert!(!failed.text().contains(server.data.to_str().unwrap()), "{}", failed.text());
}

#[test]
fn what_is_done_stands_in_the_audit_log() {
    let server = server();
    let (operator, acme) = (server.operator(), server.tenant("acme", &json!({})));
    let deployed = server.put(&acme, "hello", "hello", "", "");
    let as_acme = [("x-gannet-key", operator.as_str()), ("x-gannet-tenant", "acme")];
    assert_eq!(server.send_bare("GET", "/api/v1/functions", &as_acme, b"").status, 200);
    server.control(&acme, "DELETE", "functions/none", &Value::Null).is_problem(404, "not_found", "");
    let entries = server.control(&acme, "GET", "audit", &Value::Null).json()["entries"].clone();
    let told: Vec<(String, String, u64)> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap().to_owned();
            (text("action"), text("actor"), entry["status"].as_u64().unwrap())
        })
        .collect();
    let key = server.control(&acme, "GET", "whoami", &Value::Null).json()["key"].as_str().unwrap().to_owned();
    assert_eq!(
        told,
        [
            ("deleteFunction".into(), key.clone(), 404),
            ("listFunctions".into(), "operator".into(), 200),
            ("deployFunction".into(), key.clone(), 201)
        ]
    );
    assert_eq!(entries[2]["request"], deployed.header("x-request-id"));
    assert_eq!(entries[2]["address"], "127.0.0.1");
    let own = server.control(&operator, "GET", "audit?limit=1", &Value::Null).json();
    assert_eq!(
        (own["entries"][0]["action"].as_str(), own["entries"][0]["path"].as_str()),
        (Some("createTenant"), Some("/api/v1/tenants"))
    );
    // The entry names its subject, and never contains a key.
    assert!(own["entries"][0]["subject"].as_str().unwrap().starts_with("tenant acme, key "), "{own}");
    assert!(!own.to_string().contains("gnt_"));
    server.control(&operator, "PATCH", "tenants/acme/limits", &json!({ "functions": 7 }));
    let own = server.control(&operator, "GET", "audit?limit=1", &Value::Null).json();
    assert_eq!(own["entries"][0]["subject"], "{\"functions\":7}");
    // What the operator does to a tenant is in that tenant's log too, and so is a look at its keys.
    assert_eq!(server.control(&acme, "GET", "tenants/acme/keys", &Value::Null).status, 200);
    let entries = server.control(&acme, "GET", "audit?limit=2", &Value::Null).json()["entries"].clone();
    assert_eq!((entries[0]["action"].as_str(), entries[0]["actor"].as_str()), (Some("listKeys"), Some(key.as_str())));
    assert_eq!((&entries[1]["subject"], &entries[1]["actor"]), (&own["entries"][0]["subject"], &json!("operator")));
    server.control(&acme, "GET", "audit?since=1", &Value::Null).is_problem(400, "invalid", "unknown argument");
}

#[test]
fn work_of_loops_is_bounded_by_the_grace() {
    let server = Server::start_with(&Options { not_dev: true, config: Some("spares = 0"), ..Options::default() });
    let operator = server.operator();
    let acme = server.tenant("acme", &json!({ "loop_mi_ops": 11 }));
    let set = |value: u64| server.control(&operator, "PATCH", "tenants/acme/limits", &json!({ "loop_mi_ops": value }));
    set(12).is_problem(409, "conflict", "loop_mi_ops = 12; it may be 1 to 11 with the server's lease_grace_ms = 100");
    set(65).is_problem(400, "invalid", "it may be 1 to 64");
    let refused = json!({ "name": "other", "limits": { "loop_mi_ops": 40 } });
    server.control(&operator, "POST", "tenants", &refused).is_problem(409, "conflict", "it may be 1 to 11");
    assert_eq!(server.put(&acme, "hello", "hello", "[limits]\nloop_mi_ops = 11", "").status, 201);
    assert_eq!(set(5).status, 200);
    let beyond = server.put(&acme, "hello", "hello", "[limits]\nloop_mi_ops = 6", "");
    assert!(beyond.text().contains("loop_mi_ops"), "{}", beyond.text());
    assert!(beyond.status >= 400);
}

#[test]
fn wrong_keys_from_one_address_are_slowed_down_and_right_ones_are_not() {
    let server = Server::start_with(&Options {
        not_dev: true,
        config: Some("spares = 0\n[edge]\nwrong_keys_per_s = 1\nanonymous_per_s = 2"),
        ..Options::default()
    });
    let acme = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&acme, "hello", "hello", "[http]\npublic = true", "").status, 201);
    wait_until("wrong keys are slowed down", || {
        let answer = server.call_as("gnt_acme_wrong", "/f/acme/hello", b"");
        answer.status == 429 && answer.header("retry-after") == "1" && answer.header("x-gannet-error") == "rate_limit"
    });
    assert_eq!(server.call_as(&acme, "/f/acme/hello", b"").status, 200);
    wait_until("so are those without a key", || {
        let answer = server.send_bare("GET", "/f/acme/hello", &[], b"");
        answer.status == 429 && answer.header("ratelimit-policy") == "\"requests\";q=2;w=1"
    });
}

#[test]
fn an_operator_key_that_could_be_guessed_stops_the_start() {
    let data = tempfile::TempDir::new().unwrap();
    let folder = data.path().display().to_string();
    let serve = |key: &str| {
        let mut command = std::process::Command::new(crate::support::binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data", &folder]).env("GANNET_OPERATOR_KEY", key);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", crate::support::text(&output.stderr));
        crate::support::text(&output.stderr)
    };
    let long = format!("gnt_operator_{}", "a".repeat(300));
    for key in ["", "\n", "x", "gnt_operator_short", "operator_0123456789012345678901234567", &long] {
        std::fs::write(data.path().join("operator.key"), key).unwrap();
        let told = serve("");
        assert!(told.contains("operator.key has") && told.contains("32 to 256 printable characters"), "{told}");
        if !key.trim().is_empty() {
            let told = serve(key);
            assert!(told.contains("GANNET_OPERATOR_KEY has"), "{told}");
        }
    }
}

/// Opens a stream of a function's log. Returns when its head has arrived.
fn follow(server: &Server, tenant: &str, key: &str) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let head = format!(
        "GET /api/v1/functions/hello/logs?follow=true HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         x-gannet-key: {key}\r\nx-gannet-tenant: {tenant}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 200 "), "{}", crate::support::text(&seen));
    stream
}

#[test]
fn a_key_that_no_longer_counts_ends_the_log_that_it_reads() {
    let server = server();
    let operator = server.operator();
    let own = server.tenant("reader", &json!({}));
    assert_eq!(server.put(&own, "hello", "hello", "", "").status, 201);
    let new_key = |expires: serde_json::Value| {
        let made = server.control(&own, "POST", "tenants/reader/keys", &json!({ "expires_in_s": expires }));
        let made = made.json();
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    };
    let ends = |mut stream: std::net::TcpStream, why: &str| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(rest.ends_with(b"0\r\n\r\n"), "{why}: {}", crate::support::text(&rest));
    };
    let (id, key) = new_key(json!(null));
    let (revoked, by_operator) = (follow(&server, "reader", &key), follow(&server, "reader", &operator));
    server.control(&own, "DELETE", &format!("tenants/reader/keys/{id}"), &Value::Null);
    ends(revoked, "revoked");
    let (_, key) = new_key(json!(2));
    ends(follow(&server, "reader", &key), "expired");
    let suspended = follow(&server, "reader", &own);
    server.control(&operator, "POST", "tenants/reader/suspend", &Value::Null);
    ends(suspended, "suspended");
    server.control(&operator, "POST", "tenants/reader/resume", &Value::Null);
    server.control(&own, "DELETE", "functions/hello", &Value::Null);
    ends(by_operator, "deleted");
}
