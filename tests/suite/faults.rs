//! Guests that misbehave: the caller gets a clear error, the next request works, nothing is lost.

use crate::support::{KEY, Options, Server, text, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;

#[track_caller]
fn the_next_request_works(server: &Server) {
    assert_eq!(server.call("faulty", "/say", b"").text(), "said");
}

#[test]
fn a_trap_is_502_and_the_log_says_where() {
    let server = Server::shared();
    let answer = server.call("faulty", "/trap", b"");
    answer.is_problem(502, "function_trapped", "unreachable");
    assert_eq!(answer.json()["fault"], "function");
    assert_eq!(answer.header("x-should-retry"), "false");
    let receipt = server.receipt(&answer);
    assert_eq!((receipt["status"].clone(), receipt["error"].clone()), (502.into(), "function_trapped".into()));
    let logs = server.get_json(&format!("/api/v1/functions/faulty/logs?request={}", answer.header("x-request-id")));
    let lines = logs["lines"].to_string();
    assert!(lines.contains("trapped as asked") && lines.contains("wasm backtrace"), "{lines}");
    the_next_request_works(server);
}

#[test]
fn a_loop_ends_with_its_cpu_time() {
    let server = Server::shared();
    let answer = server.call("faulty", "/loop", b"");
    answer.is_problem(504, "deadline_exceeded", "limits.cpu_ms = 300");
    let guest_us = server.receipt(&answer)["guest_us"].as_u64().unwrap();
    assert!((250_000..2_000_000).contains(&guest_us), "{guest_us}");
    the_next_request_works(server);
}

#[test]
fn a_guest_that_waits_too_long_is_504_and_was_charged_no_cpu_for_it() {
    let server = Server::shared();
    let answer = server.call("faulty", "/sleep", b"");
    answer.is_problem(504, "deadline_exceeded", "limits.timeout_ms = 3000");
    assert!(server.receipt(&answer)["guest_us"].as_u64().unwrap() < 100_000);
    // The guest waits 400 ms, longer than its CPU limit. Waiting uses no CPU time.
    assert_eq!(server.call("faulty", "/nap?ms=400", b"").text(), "napped");
}

#[test]
fn exhausted_memory_names_the_limit() {
    let server = Server::shared();
    server.call("faulty", "/memory", b"").is_problem(502, "function_trapped", "limits.memory_mib = 64");
    the_next_request_works(server);
}

#[test]
fn a_guest_that_exits_without_an_answer_is_502() {
    let server = Server::shared();
    server.call("faulty", "/exit", b"").is_problem(502, "function_trapped", "ended without a response");
    the_next_request_works(server);
}

#[test]
fn a_guest_that_has_answered_may_exit_and_may_go_on() {
    let server = Server::shared();
    for status in [0, 1] {
        let answer = server.call("faulty", &format!("/answer-and-exit?status={status}"), b"");
        assert_eq!((answer.status, answer.text().as_str()), (200, "answered"), "status {status}");
        let mut receipt = serde_json::Value::Null;
        wait_until("its receipt is there", || {
            let path = format!("/api/v1/requests/{}", answer.header("x-request-id"));
            let found = server.send("GET", &path, &[], b"");
            receipt = if found.status == 200 { found.json() } else { serde_json::Value::Null };
            found.status == 200
        });
        assert_eq!(receipt["error"], serde_json::Value::Null, "status {status}: {receipt}");
    }
    // Within a body whose length nobody knows, an exit is a failure.
    let broken = server.call("faulty", "/exit-within-body", b"");
    broken.is_problem(502, "function_trapped", "exited with status 0 before the body of its response was finished");
    let answer = server.call("faulty", "/go-on", b"");
    assert_eq!(answer.text(), "answered");
    let logs = format!("/api/v1/functions/faulty/logs?request={}", answer.header("x-request-id"));
    wait_until("it has gone on after its answer", || server.get_json(&logs).to_string().contains("went on"));
    // A streamed body ends when it ends, and not with its guest, which takes longer than a stream may be silent.
    let patient = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    assert_eq!(patient.put(KEY, "faulty", "f", "[limits]\nstream_idle_ms = 500\n", "").status, 201);
    let streamed = patient.call("f", "/stream-and-go-on", b"");
    assert_eq!((streamed.status, streamed.text().as_str()), (200, "firstlast"));
    let logs = format!("/api/v1/functions/f/logs?request={}", streamed.header("x-request-id"));
    assert!(!patient.get_json(&logs).to_string().contains("went on"), "it is not waited for");
    wait_until("it has gone on after its stream", || patient.get_json(&logs).to_string().contains("went on"));
    the_next_request_works(server);
}

#[test]
fn what_a_guest_prints_without_a_line_break_belongs_to_its_request() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    let reuse = "[scale]\ninstance_reuse = 10\n[limits]\nconcurrency = 1\n";
    assert_eq!(server.put(KEY, "faulty", "f", reuse, "").status, 201);
    let ids = ["one", "two", "%C3%A4"].map(|said| {
        let answer = server.call("f", &format!("/partial?text={said}"), b"");
        assert_eq!(answer.text(), "printed");
        answer.header("x-request-id").to_owned()
    });
    for (id, said) in ids.iter().zip(["one", "two", "ä"]) {
        let path = format!("/api/v1/functions/f/logs?request={id}");
        wait_until("its line is there", || !server.get_json(&path)["lines"].as_array().unwrap().is_empty());
        let lines = server.get_json(&path)["lines"].clone();
        assert_eq!((lines[0]["text"].as_str().unwrap(), lines.as_array().unwrap().len()), (said, 1));
    }
}

#[test]
fn a_gigabyte_of_log_is_cut_and_harms_nobody() {
    let server = Server::shared();
    let answer = server.call("faulty", "/log?mib=1024", b"");
    answer.is_problem(504, "deadline_exceeded", "cpu time");
    let logs = server.get_json(&format!("/api/v1/functions/faulty/logs?request={}", answer.header("x-request-id")));
    let size: usize = logs["lines"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap().len()).sum();
    assert!(size <= 256 * 1024, "{size}");
    assert!(logs["lines"].to_string().contains("log cut: limits.log_kib = 256"));
    the_next_request_works(server);
}

/// Returns the raw bytes of a response, to see how it ends.
fn wire(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "GET /f/dev/faulty{path} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {}\r\n\r\n",
        crate::support::KEY
    )
    .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn a_guest_cannot_make_a_client_misread_where_its_response_ends() {
    let server = Server::shared();
    for (length, sent) in [(5, 100), (1000, 5), (0, 7), (7, 0), (7, 7)] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let key = crate::support::KEY;
        let first = format!("GET /f/dev/faulty/announce?length={length}&sent={sent} HTTP/1.1\r\n");
        let headers = format!("host: localhost\r\nx-gannet-key: {key}\r\n");
        // Both requests use one connection, as those of two clients of a proxy do.
        let both = format!("{first}{headers}\r\nGET /healthz HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        stream.write_all(both.as_bytes()).unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let all = text(&all);
        let (head, rest) = all.split_once("\r\n\r\n").unwrap();
        let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|n| n.parse().unwrap());
        assert!(head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.1 502 "), "{length} {sent}: {all}");
        assert!(
            length == sent || head.starts_with("HTTP/1.1 502 ") || announced != Some(sent),
            "{length} {sent}: {all}"
        );
        match announced {
            // What follows the announced bytes is the next response, or the connection was closed before them.
            Some(announced) if rest.len() >= announced => {
                let next = &rest[announced..];
                assert!(next.is_empty() || next.starts_with("HTTP/1.1 200 "), "{length} {sent}: {all}");
            }
            Some(_) => {}
            None => assert!(!rest.contains("\r\n0\r\n\r\n") || length == sent, "{length} {sent}: {all}"),
        }
    }
}

#[test]
fn a_body_that_stops_in_the_middle_is_seen_as_cut() {
    let server = Server::shared();
    for path in ["/half", "/silent"] {
        let answer = wire(server, path);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        // The last chunk, which ends a complete body, is missing.
        assert!(!answer.ends_with("0\r\n\r\n"), "{path}: {answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        let receipt = || server.send("GET", &format!("/api/v1/requests/{id}"), &[], b"");
        crate::support::wait_until("the tab is closed", || receipt().status == 200);
        let error = receipt().json()["error"].clone();
        assert!(
            ["function_trapped", "deadline_exceeded", "response_broken_off"].contains(&error.as_str().unwrap()),
            "{path}: {error}"
        );
    }
    the_next_request_works(server);
}
