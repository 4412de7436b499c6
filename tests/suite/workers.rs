//! The pool: hot, warm and cold starts, scale to zero, death of a worker, draining.

use crate::support::{KEY, Options, Server, prebuilt, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::TcpStream;

fn deploy(server: &Server, name: &str, scale: &str) {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(prebuilt("faulty"), folder.path().join("f.wasm")).unwrap();
    std::fs::write(
        folder.path().join("gannet.toml"),
        format!("name = \"{name}\"\n[build]\nartifact = \"f.wasm\"\n[scale]\n{scale}\n"),
    )
    .unwrap();
    let output = server.cli(&["deploy", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_spare_serves_first_and_the_worker_goes_when_idle() {
    let server = Server::start();
    wait_until("a spare is there", || server.metric("spares") == 1);
    assert_eq!(server.metric("workers"), 0);
    deploy(&server, "short", "idle_timeout_s = 1");
    let first = server.call("short", "/say", b"");
    assert_eq!((first.text().as_str(), first.header("x-gannet-start")), ("said", "warm"));
    let second = server.call("short", "/say", b"");
    assert_eq!(second.header("x-gannet-start"), "hot");
    wait_until("the idle worker is gone", || server.metric("workers") == 0);
    wait_until("the spare was refilled", || server.metric("spares") == 1);
    assert_eq!(server.call("short", "/say", b"").header("x-gannet-start"), "warm");
}

#[test]
fn without_spares_a_start_is_cold() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    deploy(&server, "cold", "idle_timeout_s = 60");
    assert_eq!(server.call("cold", "/say", b"").header("x-gannet-start"), "cold");
}

#[test]
fn min_1_keeps_a_worker_up_and_loaded() {
    let server = Server::start();
    deploy(&server, "pinned", "min = 1\nidle_timeout_s = 1");
    wait_until("the worker is there before anyone called", || server.metric("workers") == 1);
    wait_until("the first request is hot", || server.call("pinned", "/say", b"").header("x-gannet-start") == "hot");
}

#[test]
fn a_worker_killed_in_the_middle_of_a_request_is_502_and_the_next_request_works() {
    let server = Server::start();
    deploy(&server, "victim", "idle_timeout_s = 60");
    server.call("victim", "/say", b"");
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "POST /f/dev/victim/sleep HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    // The request is in its worker once a later request got its response.
    server.call("victim", "/say", b"");
    for pid in server.children("__worker") {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = text(&answer);
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("function_killed"), "{answer}");
    wait_until("the next request works", || server.call("victim", "/say", b"").status == 200);
}

#[test]
fn a_hanging_worker_is_killed_at_the_deadline_and_only_its_tenant_notices() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let operator = std::fs::read_to_string(server.data.join("operator.key")).unwrap();
    let mut keys = Vec::new();
    for tenant in ["acme", "zoo"] {
        let output = server.cli_as(operator.trim(), &["tenant", "create", tenant, "--json"]);
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let key = made["key"].as_str().unwrap().to_owned();
        let folder = crate::support::root().join("functions/faulty").display().to_string();
        let output = server.cli_as(&key, &["deploy", &folder, "--no-build"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        keys.push(key);
    }
    let call = |tenant: &str, key: &str| {
        server.send_bare("GET", &format!("/f/{tenant}/faulty/say"), &[("x-gannet-key", key)], b"")
    };
    wait_until("a spare is there", || server.metric("spares") == 1);
    // It is the only spare, so acme claims it.
    let [acme] = server.children("__worker")[..] else { panic!("one worker") };
    assert_eq!(call("acme", &keys[0]).status, 200);
    wait_until("the next spare is there", || server.metric("spares") == 1);
    assert_eq!(call("zoo", &keys[1]).status, 200);
    kill_process(Pid::from_raw(acme).unwrap(), Signal::STOP).unwrap();
    // One of its threads must run to carry out the signal, and until then the others serve requests.
    let is_stopped = || std::fs::read_to_string(format!("/proc/{acme}/stat")).unwrap().contains(") T ");
    wait_until("it has stopped", is_stopped);
    let stopped = call("acme", &keys[0]);
    stopped.is_problem(502, "function_killed", "worker ended");
    assert_eq!(call("zoo", &keys[1]).status, 200);
    wait_until("acme is served again", || call("acme", &keys[0]).status == 200);
    // Neither tenant can see the other.
    server.send_bare("GET", "/f/zoo/faulty/say", &[("x-gannet-key", &keys[0])], b"").is_problem(
        404,
        "not_found",
        "no such function",
    );
}

#[test]
fn sigterm_lets_a_running_request_end_and_exits_0() {
    let server = Server::start();
    deploy(&server, "drain", "idle_timeout_s = 60");
    server.call("drain", "/say", b"");
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(stream, "GET /f/dev/drain/nap?ms=700 HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n\r\n").unwrap();
    server.call("drain", "/say", b"");
    assert_eq!(server.terminate(), Some(0));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(text(&answer).starts_with("HTTP/1.1 200 ") && text(&answer).ends_with("napped"), "{}", text(&answer));
    assert!(server.children("__worker").is_empty());
}

#[test]
fn what_the_driver_compiled_at_deploy_is_kept_for_the_first_request() {
    let server = Server::start();
    server.deploy("blur");
    let tenant = server.data.join("driver-cache/dev");
    let mut files = Vec::new();
    let mut folders = vec![tenant];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    // There must be a file for each of its two kernels, not only the index. NVIDIA's driver keeps all kernels in one
    // file.
    let packed = files.iter().any(|path| path.extension().is_some_and(|extension| extension == "bin"));
    let whole = files.iter().filter(|path| path.extension().is_none() && !path.ends_with("index")).count();
    assert!(packed || whole >= 2, "{files:?}");
}

#[test]
fn the_systems_killer_takes_a_worker_before_the_server() {
    let server = Server::start_with(&Options { config: Some("spares = 1"), ..Options::default() });
    wait_until("a spare is there", || server.metric("spares") == 1);
    let score = |pid: String| -> i32 {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    let [worker] = server.children("__worker")[..] else { panic!("one worker") };
    assert!(score(worker.to_string()) >= score(server.pid().to_string()) + 800);
}
