//! What a tenant may spend holds while its requests run, what dies is billed, and a late request answers first.

use crate::support::{Options, Response, Server, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn server(config: &str) -> Server {
    Server::start_with(&Options { config: Some(config), not_dev: true, ..Options::default() })
}

fn receipt(server: &Server, key: &str, answer: &Response) -> Value {
    let path = format!("requests/{}", answer.header("x-request-id"));
    let mut receipt = Value::Null;
    wait_until("the request is billed", || {
        receipt = server.control(key, "GET", &path, &Value::Null).json();
        receipt["billed"] == true
    });
    receipt
}

fn spent(server: &Server, key: &str) -> u64 {
    let limits = server.control(key, "GET", "limits", &Value::Null).json();
    limits["used"]["spend_micro_units_per_month"].as_u64().unwrap()
}

/// A millisecond of work costs 1,000 micro-units.
const PRICES: &str = "spares = 0\n[prices]\ncpu_micro_units_per_s = 1000000\ngpu_micro_units_per_s = 1000000";

#[test]
fn requests_at_once_are_stopped_when_together_they_pass_what_may_be_spent() {
    let server = server(PRICES);
    let key = server.tenant("acme", &json!({ "spend_micro_units_per_month": 100_000 }));
    // Each alone would use 3 s.
    assert_eq!(server.put(&key, "faulty", "faulty", "[limits]\ncpu_ms = 3000\ntimeout_ms = 60000\n", "").status, 201);
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..20).map(|_| scope.spawn(|| server.call_as(&key, "/f/acme/faulty/loop", b""))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, answer.header("x-gannet-error")), (402, "spend_limit"), "{}", answer.text());
    }
    let stopped: Vec<_> = answers.iter().filter(|answer| answer.text().contains("while the request ran")).collect();
    assert!(!stopped.is_empty());
    // The work until then is on the bill, and nothing else.
    let billed: u64 =
        stopped.iter().map(|answer| receipt(&server, &key, answer)["cost_micro_units"].as_u64().unwrap()).sum();
    let spent = spent(&server, &key);
    assert_eq!(spent, billed);
    assert!(spent >= 100_000, "it was not stopped too early: {spent}");
    assert!(spent < 20 * 3_000_000 / 5, "20 requests of 3 s were stopped: {spent}");
}

#[test]
fn a_stream_is_stopped_when_it_passes_what_may_be_spent() {
    let server = server(PRICES);
    let key = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&key, "stream", "stream", "", "").status, 201);
    let endless = || server.call_as(&key, "/f/acme/stream/?count=10000&every_ms=20", b"");
    let stopped = std::thread::scope(|scope| {
        let call = scope.spawn(endless);
        wait_until("it runs", || {
            server.control(&key, "GET", "limits", &Value::Null).json()["used"]["concurrency"] == 1
        });
        let patch = json!({ "spend_micro_units_per_month": 1 });
        assert_eq!(server.control(&server.operator(), "PATCH", "tenants/acme/limits", &patch).status, 200);
        call.join().unwrap()
    });
    assert!(stopped.status == 402 || stopped.body.is_err(), "{}", stopped.status);
    let receipt = receipt(&server, &key, &stopped);
    assert_eq!(
        (receipt["error"].clone(), receipt["fault"].clone()),
        (json!("spend_limit"), json!("caller")),
        "{receipt}"
    );
    assert!(receipt["cost_micro_units"].as_u64().unwrap() > 0, "{receipt}");
}

#[test]
fn the_cpu_time_of_a_request_whose_worker_dies_is_on_the_bill() {
    let server = server(PRICES);
    let key = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&key, "faulty", "faulty", "[limits]\ncpu_ms = 60000\ntimeout_ms = 60000\n", "").status, 201);
    let killed = std::thread::scope(|scope| {
        // A POST is not repeated.
        let call = scope.spawn(|| server.call_as(&key, "/f/acme/faulty/loop", b"x"));
        let mut worker = 0;
        wait_until("it computes", || {
            let Some(pid) = server.children("__worker").first().copied() else { return false };
            worker = pid;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            fields.get(11).and_then(|ticks| ticks.parse::<u64>().ok()).is_some_and(|ticks| ticks > 150)
        });
        kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
        call.join().unwrap()
    });
    killed.is_problem(502, "function_killed", "signal 9");
    let receipt = receipt(&server, &key, &killed);
    let cpu_ms = receipt["cpu_ms"].as_u64().unwrap();
    assert!(cpu_ms > 200, "{receipt}");
    assert!(cpu_ms <= receipt["wall_us"].as_u64().unwrap() / 1000 + 1, "{receipt}");
    assert_eq!(receipt["cost_micro_units"], json!(cpu_ms * 1000), "{receipt}");
}

/// A kernel whose one workgroup takes seconds on a software driver and cannot be divided.
fn heavy() -> String {
    let step = "x = sin(x) + cos(x) + sin(x * 3.0) + cos(x * 5.0) + exp(-x * x) + tan(x);\n".repeat(60);
    format!(
        "@group(0) @binding(0) var<storage, read_write> a: array<f32>;
        @compute @workgroup_size(256) fn main(@builtin(local_invocation_index) at: u32) {{
            var x = f32(at);
            for (var i = 0u; i < arrayLength(&a); i++) {{
                {step}
            }}
            a[at] = x;
        }}"
    )
}

#[test]
fn a_late_request_answers_first_and_its_neighbours_go_on() {
    let server = server("spares = 0");
    let key = server.tenant("acme", &json!({}));
    let deployed = server.put(&key, "wgsl", "wgsl", "[limits]\ntimeout_ms = 1500\n", "");
    assert_eq!(deployed.status, 201, "{}", deployed.text());
    assert_eq!(server.put(&key, "faulty", "faulty", "[limits]\ntimeout_ms = 60000\n", "").status, 201);
    let job = |length: u64| {
        let buffer = json!({ "group": 0, "binding": 0, "size": length * 4, "read": false });
        json!({ "wgsl": heavy(), "grid": [1, 1, 1], "buffers": [buffer] }).to_string()
    };
    // The kernel is compiled by then.
    assert_eq!(server.call_as(&key, "/f/acme/wgsl/", job(256).as_bytes()).status, 200);
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| server.call_as(&key, "/f/acme/faulty/nap?ms=8000", b"x"));
        wait_until("the neighbour runs", || {
            server.control(&key, "GET", "limits", &Value::Null).json()["used"]["concurrency"] == 1
        });
        let late = server.call_as(&key, "/f/acme/wgsl/", job(60_000).as_bytes());
        late.is_problem(504, "deadline_exceeded", "limits.timeout_ms = 1500");
        let receipt = receipt(&server, &key, &late);
        assert!(receipt["gpu_ns"].as_u64().unwrap() > 0, "{receipt}");
        assert_eq!(receipt["error"], "deadline_exceeded");
        assert_eq!(neighbour.join().unwrap().text(), "napped");
    });
}
