//! Instances: one for each request, made before it or when it arrives, and instances that serve several requests.

use crate::support::{KEY, Options, Server, text, wait_until};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn server() -> Server {
    Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() })
}

/// Requests of one version that make sure that every kind of instance has served: more than may be prepared in vain.
const REQUESTS: usize = 20;

/// Deploys a guest that computes for a millisecond or more while it is instantiated, and then does what `start` says.
fn deploy(server: &Server, name: &str, start: &str) {
    let cpu_ms = if start == "loop" { 300 } else { 10_000 };
    let manifest = format!("[env]\nSTART = \"{start}\"\n[limits]\ncpu_ms = {cpu_ms}\nmemory_mib = 512\n");
    let made = server.put(KEY, "faulty", name, &manifest, "");
    assert_eq!(made.status, 201, "{}", made.text());
}

fn now_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

#[test]
fn an_instance_may_be_made_before_its_request_which_pays_for_it() {
    let server = server();
    deploy(&server, "ready", "");
    let mut prepared = 0;
    wait_until("instances were made before their requests came", || {
        prepared += usize::from(was_prepared(&server, "ready"));
        prepared >= REQUESTS
    });
    // A new version of the same name has instances of its own.
    deploy(&server, "ready", "gpu");
    assert!(!was_prepared(&server, "ready"));
}

#[test]
fn what_a_guest_does_when_it_is_made_belongs_to_its_request() {
    let server = server();
    deploy(&server, "prints", "print");
    deploy(&server, "computes", "gpu");
    for _ in 0..REQUESTS {
        let answer = server.call("prints", "/started", b"");
        assert!(answer.text().starts_with("1 true "), "{}", answer.text());
        let path = format!("/api/v1/functions/prints/logs?request={}", answer.header("x-request-id"));
        wait_until("its log has its line", || {
            server.get_json(&path).to_string().matches("printed at start").count() == 1
        });
        let answer = server.call("computes", "/started", b"");
        assert!(answer.text().starts_with("1 true "), "the GPU refused it: {}", answer.text());
        let receipt = server.receipt(&answer);
        assert!(receipt["gpu_memory_peak_bytes"].as_u64().unwrap() > 0, "{receipt}");
    }
}

/// Calls a guest that was deployed with [`deploy`]. Returns whether its instance was made before the request.
fn was_prepared(server: &Server, name: &str) -> bool {
    let before = now_us();
    let answer = server.call(name, "/started", b"");
    let text = answer.text();
    let words: Vec<&str> = text.split(' ').collect();
    assert_eq!(words[..2], ["1", "true"], "each request has a fresh instance: {text}");
    // Making the instance needs more CPU time than this on any machine, and it is on the bill of its request.
    let receipt = server.receipt(&answer);
    assert!(receipt["guest_us"].as_u64().unwrap() > 200, "{receipt}");
    words[2].parse::<u128>().unwrap() < before
}

#[test]
fn an_instance_that_takes_too_much_is_not_prepared() {
    let server = server();
    for start in ["long", "wait", "hoard"] {
        deploy(&server, start, start);
        for _ in 0..4 {
            assert!(!was_prepared(&server, start), "{start}");
        }
    }
}

#[test]
fn a_guest_that_fails_when_it_is_made_fails_each_request_alone() {
    let server = server();
    deploy(&server, "traps", "trap");
    deploy(&server, "loops", "loop");
    deploy(&server, "works", "");
    for _ in 0..3 {
        server.call("traps", "/started", b"").is_problem(502, "function_trapped", "");
        server.call("loops", "/started", b"").is_problem(504, "deadline_exceeded", "limits.cpu_ms = 300");
        assert!(server.call("works", "/started", b"").text().starts_with("1 true "));
    }
}

#[test]
fn an_instance_serves_as_many_requests_as_its_manifest_says() {
    let server = server();
    let made = server.put(KEY, "faulty", "faulty", "[scale]\ninstance_reuse = 3\n[limits]\nmemory_mib = 64\n", "");
    assert_eq!(made.status, 201, "{}", made.text());
    let count = || {
        let answer = server.call("faulty", "/found", b"");
        let count: u32 = answer.text().split_whitespace().next().unwrap().parse().unwrap();
        let receipt = server.receipt(&answer);
        // Each request has its own receipt, whichever instance served it.
        assert_eq!((&receipt["slices"], &receipt["fault"]), (&json!(1), &json!(null)), "{receipt}");
        assert_eq!(receipt["gpu_memory_peak_bytes"], 8704, "{receipt}");
        (count, answer.header("x-request-id").to_owned())
    };
    let counts: Vec<_> = std::iter::repeat_with(count).take(7).collect();
    assert_eq!(counts.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3, 1]);
    // Each request has its own log too.
    for (count, request) in &counts {
        wait_until("its log line is there", || {
            let output = server.cli(&["logs", "faulty", "--request", request]);
            String::from_utf8_lossy(&output.stdout).contains(&format!("found by request {count}"))
        });
    }
    // After a fault the next request gets a fresh instance.
    assert_eq!(server.call("faulty", "/trap", b"").status, 502);
    assert_eq!(count().0, 1);
    assert_eq!(count().0, 2);
    // Two requests at once get two instances. When the head of a streamed response is there, its instance is busy.
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = "GET /f/dev/faulty/late?ms=700 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    write!(slow, "{request}x-gannet-key: {KEY}\r\n\r\n").unwrap();
    let mut head = [0; 12];
    slow.read_exact(&mut head).unwrap();
    assert_eq!(text(&head), "HTTP/1.1 200");
    assert_eq!(count().0, 1, "the instance that has served two requests is busy");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(text(&rest).contains("data: late"), "{}", text(&rest));
    let settings = server.control(KEY, "PATCH", "functions/faulty", &json!({ "scale": { "instance_reuse": 0 } }));
    settings.is_problem(400, "invalid", "scale.instance_reuse = 0; it may be 1 to 1000000");
}
