//! Calls of a function by another function of its tenant, `http://{function}.gannet.internal/`. The component `caller`
//! calls what its request names, and shows what arrives.

use crate::support::{KEY, Options, Response, Server, text, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::thread;

/// Deploys `caller` under a name, with limits.
fn deploy(server: &Server, name: &str, limits: &str) {
    let deployed = server.put(KEY, "caller", name, &format!("[limits]\n{limits}\n"), "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

/// A server with the functions `a` and `b`, and prices.
fn start() -> Server {
    let config = "spares = 0\n[prices]\ncpu_micro_units_per_s = 1000000\n";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    deploy(&server, "a", "");
    deploy(&server, "b", "");
    server
}

fn encoded(path: &str) -> String {
    path.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

/// The path on which `caller` calls a path of another function.
fn to(function: &str, path: &str) -> String {
    format!("/call?to={function}&path={}", encoded(path))
}

/// Returns the receipt of the call that an answer tells of.
fn of_call(server: &Server, answer: &Response) -> Value {
    server.get_json(&format!("/api/v1/requests/{}", answer.header("x-called-id")))
}

/// Returns the ids of the requests of a function that have logged a line.
fn requests_that_logged(server: &Server, function: &str, line: &str) -> Vec<String> {
    let logs = server.get_json(&format!("/api/v1/functions/{function}/logs"));
    let lines = logs["lines"].as_array().unwrap().iter().filter(|entry| entry["text"] == line);
    lines.map(|entry| entry["request"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a function serves a request to a path, and returns its id.
fn serving(server: &Server, function: &str, path: &str) -> String {
    let line = format!("GET {path}");
    wait_until("the function serves the request", || !requests_that_logged(server, function, &line).is_empty());
    requests_that_logged(server, function, &line).remove(0)
}

/// Waits until a request has a receipt, and returns it.
fn ended(server: &Server, id: &str) -> Value {
    let path = format!("/api/v1/requests/{id}");
    wait_until("the request has ended", || server.send("GET", &path, &[], b"").status == 200);
    server.get_json(&path)
}

/// Begins a request to a function, and returns its connection.
fn begin(server: &Server, function: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!("GET /f/dev/{function}{path} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn a_function_calls_another_and_bodies_of_any_size_go_both_ways() {
    let server = start();
    let body: Vec<u8> = (0..5_u32 << 20).map(|index| index.to_le_bytes()[0] ^ index.to_le_bytes()[2]).collect();
    let answer = server.call("a", &to("b", "/echo"), &body);
    assert_eq!((answer.status, answer.bytes() == body), (200, true), "{}", answer.bytes().len());
    let parent = server.receipt(&answer);
    let child = of_call(&server, &answer);
    assert_eq!((&child["parent"], &child["depth"]), (&parent["request"], &json!(1)), "{child}");
    assert_eq!((&child["function"], &child["tenant"]), (&json!("b"), &json!("dev")));
    assert_eq!((&child["bytes_in"], &child["bytes_out"]), (&json!(body.len()), &json!(body.len())));
    assert!(child["cpu_micro_units"].as_u64().unwrap() > 0, "{child}");
    assert_eq!(parent["sibling_calls"], 1, "{parent}");
    assert_eq!(parent["sibling_micro_units"], child["cpu_micro_units"], "{parent}");
    assert_eq!((&parent["parent"], &parent["egress_bytes"]), (&Value::Null, &json!(0)), "{parent}");
    let parts = server.call("a", &to("b", "/parts?n=4&every_ms=20"), b"");
    assert_eq!((parts.status, parts.text()), (200, "1\n2\n3\n4\n".into()));
    let usage = server.get_json("/api/v1/usage?by=function").to_string();
    assert!(usage.contains("\"a\"") && usage.contains("\"b\""), "{usage}");
}

#[test]
fn the_platform_says_who_calls_and_nobody_can_forge_it() {
    let server = start();
    let forged = [
        ("x-own", "kept"),
        ("x-gannet-caller", "forged"),
        ("x-send-x-gannet-caller", "forged"),
        ("x-send-x-gannet-tenant", "zoo"),
        ("x-send-x-gannet-job-id", "forged"),
        ("x-send-authorization", "Bearer gnt_dev_local"),
    ];
    let called = server.send("GET", &format!("/f/dev/a{}", to("b", "/seen")), &forged, b"").text();
    for line in [
        "host=b.gannet.internal",
        "x-gannet-caller=a",
        "x-own=kept",
        "x-forwarded-for=127.0.0.1",
        "x-forwarded-proto=http",
    ] {
        assert!(called.contains(&format!("{line}\n")), "{line}: {called}");
    }
    for name in
        ["authorization", "x-gannet-key", "x-gannet-tenant", "x-gannet-job-id", "x-gannet-hop-request", "connection"]
    {
        assert!(called.contains(&format!("{name}=-\n")), "{name}: {called}");
    }
    let direct = server.send("GET", "/f/dev/b/seen", &forged, b"").text();
    assert!(direct.contains("x-gannet-caller=-\n"), "{direct}");
    // A function's own credentials are its own.
    let own =
        server.send("GET", &format!("/f/dev/a{}", to("b", "/seen")), &[("x-send-authorization", "Basic eA==")], b"");
    assert!(own.text().contains("authorization=Basic eA==\n"), "{}", own.text());
}

#[test]
fn only_functions_of_the_same_tenant_are_found() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let (one, two) = (server.tenant("one", &json!({})), server.tenant("two", &json!({})));
    for (key, name) in [(&one, "a"), (&two, "theirs"), (&two, "a")] {
        assert_eq!(server.put(key, "caller", name, "[http]\npublic = true\n[limits]\nbody_mib = 1\n", "").status, 201);
    }
    let call = |path: &str, body: &[u8]| server.call_as(&one, &format!("/f/one/a{path}"), body);
    for function in ["theirs", "nowhere", "a--two", "x.a", "two"] {
        let answer = call(&to(function, "/echo"), b"");
        assert_eq!(
            (answer.status, answer.header("x-called-error")),
            (404, "not_found"),
            "{function}: {}",
            answer.text()
        );
    }
    for url in ["https://a.gannet.internal/echo", "http://a.gannet.internal:8080/echo", "http://a.gannet.internal:443/"]
    {
        let answer = call(&format!("/call?url={}", encoded(url)), b"");
        assert_eq!((answer.status, answer.header("x-called-error")), (400, "sibling_address"), "{}", answer.text());
        assert!(answer.text().contains("http://FUNCTION.gannet.internal/"), "{}", answer.text());
    }
    let path = call(&to("a", "/x/../seen"), b"");
    assert_eq!((path.status, path.header("x-called-error")), (400, "path_invalid"));
    let fine = call(&format!("/call?url={}", encoded("http://A.Gannet.Internal./echo")), b"x");
    assert_eq!((fine.status, fine.text()), (200, "x".into()));
}

#[test]
fn a_call_is_limited_as_the_called_function_says() {
    let server = start();
    deploy(&server, "small", "body_mib = 1\ncpu_ms = 50\n");
    let large = server.call("a", &to("small", "/echo"), &vec![b'x'; 2 << 20]);
    assert_eq!((large.status, large.header("x-called-error")), (413, "body_too_large"), "{}", large.text());
    let id = large.header("x-request-id").to_owned();
    wait_until("the caller's log tells of the refusal", || {
        let logs = server.get_json(&format!("/api/v1/functions/a/logs?request={id}")).to_string();
        logs.contains("http://small.gannet.internal was not served: body_too_large")
    });
    // The callee's next version serves the next call.
    assert_eq!(server.put(KEY, "caller", "small", "", "").status, 201);
    assert_eq!(server.call("a", &to("small", "/echo"), &vec![b'x'; 2 << 20]).status, 200);
    assert_eq!(server.put(KEY, "faulty", "small", "", "").status, 201);
    let trapped = server.call("a", &to("small", "/trap"), b"");
    assert_eq!((trapped.status, trapped.header("x-called-error")), (502, "function_trapped"), "{}", trapped.text());
    assert_eq!(server.receipt(&trapped)["error"], Value::Null, "the caller did not fail");
}

#[test]
fn calls_go_to_depth_8_and_circles_end_there() {
    let server = start();
    let deep = server.call("a", "/chain?to=a&left=8", b"");
    assert_eq!((deep.status, deep.text()), (200, format!("first\n{}", "called\n".repeat(8))));
    let receipt = server.receipt(&deep);
    assert_eq!(receipt["sibling_calls"], 1, "its own");
    assert!(
        receipt["sibling_micro_units"].as_u64() > of_call(&server, &deep)["cpu_micro_units"].as_u64(),
        "and theirs"
    );
    let deeper = server.call("a", "/chain?to=a&left=9", b"");
    assert_eq!(deeper.status, 508, "{}", deeper.text());
    assert!(deeper.text().contains("\"call_depth\"") && deeper.text().contains("depth 9"), "{}", deeper.text());
    wait_until("the log tells of it", || {
        server.get_json("/api/v1/functions/a/logs").to_string().contains("was not served: call_depth")
    });
}

#[test]
fn a_call_ends_when_the_time_of_its_caller_does() {
    let server = start();
    deploy(&server, "short", "timeout_ms = 3000\n");
    let answer = server.call("short", &to("b", "/wait?ms=60000"), b"");
    assert_eq!((answer.status, answer.header("x-called-error")), (504, "deadline_exceeded"), "{}", answer.text());
    let child = of_call(&server, &answer);
    assert_eq!((&child["error"], &child["status"]), (&json!("deadline_exceeded"), &json!(504)), "{child}");
    assert!(child["error_detail"].as_str().unwrap().contains("which its caller"), "{child}");
    // A caller that is ended itself takes its calls with it. The chain is ended from its end.
    let all = server.call("short", &to("a", &to("b", "/wait?ms=60000")), b"");
    assert_eq!(all.status, 504, "{}", all.text());
    for id in requests_that_logged(&server, "b", "GET /wait") {
        ended(&server, &id);
    }
}

#[test]
fn a_call_ends_when_its_caller_leaves_or_waits_no_longer() {
    let server = start();
    let client = begin(&server, "a", &to("b", &to("c", "/wait?ms=60000")));
    deploy(&server, "c", "timeout_ms = 60000\n");
    drop(client);
    let client = begin(&server, "a", &to("b", &to("c", "/wait?ms=60000")));
    let id = serving(&server, "c", "/wait");
    drop(client);
    let child = ended(&server, &id);
    assert_eq!((&child["error"], &child["depth"]), (&json!("client_closed"), &json!(2)), "{child}");
    assert_eq!(ended(&server, child["parent"].as_str().unwrap())["depth"], 1);

    let impatient = server.call("a", &format!("{}&patience_ms=200", to("b", "/wait?ms=50000")), b"");
    assert_eq!(impatient.status, 502, "{}", impatient.text());
    assert!(impatient.text().contains("ResponseTimeout"), "{}", impatient.text());
    let child = ended(&server, &serving(&server, "b", "/wait"));
    assert_eq!((&child["error"], &child["parent"]), (&json!("client_closed"), &server.receipt(&impatient)["request"]));
}

#[test]
fn a_function_that_waits_for_itself_gets_an_answer() {
    let server = start();
    deploy(&server, "one", "concurrency = 1\ntimeout_ms = 600000\nqueue_ms = 500000\n");
    deploy(&server, "other", "concurrency = 1\ntimeout_ms = 600000\nqueue_ms = 500000\n");
    let own = server.call("one", &to("one", "/echo"), b"");
    assert_eq!((own.status, own.header("x-called-error")), (503, "call_deadlock"), "{}", own.text());
    let circle = server.call("one", &to("other", &to("one", "/echo")), b"");
    assert_eq!(circle.status, 503, "{}", circle.text());
    // Each holds the only permit that the other needs.
    thread::scope(|scope| {
        let call = |from: &'static str, next: &'static str| {
            let server = &server;
            scope.spawn(move || {
                (0..5).map(|_| server.call(from, &to(next, "/wait?ms=1"), b"").status).collect::<Vec<_>>()
            })
        };
        let calls = [call("one", "other"), call("other", "one")];
        for statuses in calls.map(|call| call.join().unwrap()) {
            assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        }
    });
    assert_eq!(server.call("one", &to("other", "/echo"), b"").status, 200, "nothing is left of it");
}

#[test]
fn calls_need_no_permit_of_a_full_server() {
    let config = "requests_max = 4\n";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    for name in ["a", "b", "c"] {
        deploy(&server, name, "");
    }
    thread::scope(|scope| {
        let calls: Vec<_> =
            (0..40).map(|_| scope.spawn(|| server.call("a", &to("b", &to("c", "/wait?ms=20")), b"").status)).collect();
        let statuses: Vec<u16> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    });
}

#[test]
fn three_hundred_calls_of_two_levels_all_arrive() {
    let config = "[limits]\nconcurrency = 2000\nqueue_depth = 1000\n";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    for (name, concurrency) in [("a", 48), ("b", 64), ("c", 64)] {
        deploy(&server, name, &format!("concurrency = {concurrency}\ntimeout_ms = 60000\nqueue_ms = 60000\n"));
    }
    thread::scope(|scope| {
        let call = |index: usize| {
            let (server, body) = (&server, format!("call {index}").repeat(500));
            scope.spawn(move || {
                let answer = server.call("a", &to("b", &to("c", "/echo")), body.as_bytes());
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(text(answer.bytes()), body);
            })
        };
        let calls: Vec<_> = (0..300).map(call).collect();
        calls.into_iter().for_each(|call| call.join().unwrap());
    });
}

#[test]
fn a_call_that_finds_its_worker_full_goes_to_another_worker_of_the_tenant() {
    let config =
        "spares = 0\nworkers_max = 2\n[[gpus]]\nindex = 0\n[[gpus]]\nindex = 0\n[limits]\nconcurrency = 2000\n";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    let limits = "concurrency = 128\ntimeout_ms = 300000\nqueue_ms = 300000\n";
    deploy(&server, "a", &format!("{limits}[scale]\nmin = 2\n"));
    // One worker is enough for its requests, as far as their number tells.
    deploy(&server, "b", &format!("{limits}[scale]\nqueue_delay_s = 3600\n"));
    wait_until("the tenant has two workers", || server.get_json("/api/v1/functions/a")["workers"] == 2);
    // At depth 1 there may be 100 calls in a worker.
    let clients: Vec<TcpStream> = (0..110).map(|_| begin(&server, "a", &to("b", "/wait?ms=300000"))).collect();
    wait_until("all calls run at once", || requests_that_logged(&server, "b", "GET /wait").len() == 110);
    wait_until("the scaling hears of it", || server.get_json("/api/v1/functions/b")["workers_wanted"] == 2);
    let own = requests_that_logged(&server, "b", "GET /wait");
    drop(clients);
    let slots: BTreeSet<u64> = own.iter().filter_map(|id| ended(&server, id)["slot"].as_u64()).collect();
    assert_eq!(slots, BTreeSet::from([0, 1]));
}

#[test]
fn an_attempt_of_a_job_calls_a_sibling() {
    let server = start();
    let input = json!({ "input": { "to": "b", "path": "/seen" } }).to_string();
    let done = server.send("POST", "/v2/a/runsync?wait=60000", &[], input.as_bytes()).json();
    assert_eq!((&done["status"], &done["output"]["status"]), (&json!("COMPLETED"), &json!(200)), "{done}");
    assert!(done["output"]["answer"].as_str().unwrap().contains("x-gannet-caller=a\n"), "{done}");
    let child = server.get_json(&format!("/api/v1/requests/{}", done["output"]["id"].as_str().unwrap()));
    assert!(child["job"].is_null() && child["parent"].is_string(), "{child}");
    let parent = server.get_json(&format!("/api/v1/requests/{}", child["parent"].as_str().unwrap()));
    assert_eq!((&parent["job"], &parent["sibling_calls"]), (&done["id"], &json!(1)), "{parent}");
}

#[test]
fn caller_and_called_both_use_the_gpu() {
    let server = start();
    let answer = server.call("a", "/both?to=b", b"");
    assert_eq!((answer.status, answer.text()), (200, format!("{} {}", 64 * 4, 64 * 42)));
    let deep = server.call("a", &format!("/both?to=b&path={}", encoded("/both?to=a")), b"");
    assert_eq!((deep.status, deep.text()), (200, format!("{} {} {}", 64 * 4, 64 * 4, 64 * 42)));
    assert!(server.receipt(&answer)["slices"].as_u64() >= Some(2));
}

#[test]
fn the_calls_of_a_suspended_tenant_end_and_none_begin() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let key = server.tenant("one", &json!({}));
    for name in ["a", "b"] {
        assert_eq!(server.put(&key, "caller", name, "", "").status, 201);
    }
    let path = format!("/f/one/a{}", to("b", "/wait?ms=60000"));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| server.call_as(&key, &path, b"").status);
        let logs = || server.control(&key, "GET", "functions/b/logs", &Value::Null).text();
        wait_until("the call is served", || logs().contains("GET /wait"));
        let suspended = server.control(&server.operator(), "POST", "tenants/one/suspend", &Value::Null);
        assert_eq!(suspended.status, 200, "{}", suspended.text());
        assert!([403, 502].contains(&waiting.join().unwrap()));
    });
    let resumed = server.control(&server.operator(), "POST", "tenants/one/resume", &Value::Null);
    assert_eq!(resumed.status, 200, "{}", resumed.text());
    assert_eq!(server.call_as(&key, &format!("/f/one/a{}", to("b", "/echo")), b"x").text(), "x");
}
