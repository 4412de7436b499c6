//! Limits of tenants: what is refused, with which error, and that a change needs no restart.

use crate::support::{Options, Server, wait_until};
use serde_json::{Value, json};

fn server(config: &str) -> Server {
    Server::start_with(&Options { not_dev: true, config: Some(config), ..Options::default() })
}

fn set(server: &Server, tenant: &str, limits: &Value) {
    let answer = server.control(&server.operator(), "PATCH", &format!("tenants/{tenant}/limits"), limits);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_rate_is_told_before_it_is_passed_and_a_change_needs_no_restart() {
    let server = server("spares = 0");
    let acme = server.tenant("acme", &json!({ "requests_per_s": 1, "requests_burst": 3 }));
    assert_eq!(server.put(&acme, "hello", "hello", "", "").status, 201);
    let first = server.call_as(&acme, "/f/acme/hello", b"");
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, "\"requests\";q=3;w=3"));
    assert!(first.header("ratelimit").starts_with("\"requests\";r=2;t="), "{}", first.header("ratelimit"));
    let mut refused = None;
    wait_until("the rate is passed", || {
        let answer = server.call_as(&acme, "/f/acme/hello", b"");
        let is = answer.status == 429;
        refused = is.then_some(answer);
        is
    });
    let refused = refused.unwrap();
    refused.is_problem(429, "rate_limit", "the tenant may send 1 requests a second and 3 at once");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    set(&server, "acme", &json!({ "requests_per_s": 1_000_000, "requests_burst": 1_000_000 }));
    for _ in 0..5 {
        assert_eq!(server.call_as(&acme, "/f/acme/hello", b"").status, 200);
    }
    let slow = server.control(&acme, "POST", "tenants/acme/keys", &json!({ "requests_per_s": 1 })).json();
    let slow = slow["key"].as_str().unwrap();
    wait_until("a key has a rate of its own", || {
        let answer = server.call_as(slow, "/f/acme/hello", b"");
        answer.status == 429 && answer.text().contains("this key may send 1 requests")
    });
}

#[test]
fn requests_in_flight_and_waiting_are_limited() {
    let server = server("spares = 0");
    let acme = server.tenant("acme", &json!({ "concurrency": 2, "queue_depth": 0 }));
    assert_eq!(server.put(&acme, "faulty", "faulty", "[limits]\nconcurrency = 1\n", "").status, 201);
    let in_flight =
        || server.control(&acme, "GET", "limits", &Value::Null).json()["used"]["concurrency"].as_u64().unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.call_as(&acme, "/f/acme/faulty/nap?ms=3000", b""));
        wait_until("one request runs", || in_flight() == 1);
        let waiting = server.call_as(&acme, "/f/acme/faulty/say", b"");
        waiting.is_problem(429, "tenant_limit", "queue_depth = 0; in use: 0");
        assert_eq!(waiting.header("retry-after"), "1");
        set(&server, "acme", &json!({ "concurrency": 1, "queue_depth": null }));
        server.call_as(&acme, "/f/acme/faulty/say", b"").is_problem(429, "tenant_limit", "concurrency = 1; in use: 1");
        assert_eq!(running.join().unwrap().status, 200);
    });
    assert_eq!(server.call_as(&acme, "/f/acme/faulty/say", b"").status, 200);
}

#[test]
fn what_may_be_spent_stops_new_requests() {
    let server = server("spares = 0\n[prices]\ncpu_micro_units_per_s = 1000000\ngpu_micro_units_per_s = 1000000");
    let acme = server.tenant("acme", &json!({ "spend_micro_units_per_month": 1500 }));
    for name in ["hello", "mandelbrot"] {
        assert_eq!(server.put(&acme, name, name, "", "").status, 201);
    }
    let mut count = 0;
    wait_until("the month's money is spent", || {
        let answer = server.call_as(&acme, "/f/acme/hello", b"");
        count += 1;
        if answer.status == 402 {
            answer.is_problem(
                402,
                "spend_limit",
                "spend_micro_units_per_month = 1500; spent in this month, with requests that still run: ",
            );
            assert_eq!(answer.header("x-should-retry"), "false");
        }
        answer.status == 402
    });
    assert!((2..=3).contains(&count), "a started millisecond costs 1000 micro-units: {count}");
    set(&server, "acme", &json!({ "spend_micro_units_per_month": null, "gpu_ms_per_day": 1 }));
    wait_until("the day's gpu time is used up", || {
        let answer = server.call_as(&acme, "/f/acme/mandelbrot/?width=512&height=512", b"");
        let is = answer.status == 429;
        if is {
            answer.is_problem(429, "tenant_limit", "gpu_ms_per_day = 1; in use: ");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() <= 86_400);
        }
        is
    });
}

#[test]
fn settings_above_the_tenants_limits_are_refused_and_lowered_limits_hold_for_what_is_deployed() {
    let server = server("spares = 0\n[limits]\nmemory_mib = 64\nfunctions = 2");
    let acme = server.tenant("acme", &json!({}));
    let above = server.put(&acme, "faulty", "faulty", "[limits]\nmemory_mib = 65\n", "");
    above.is_problem(422, "limit_above_tenants", "memory_mib = 65; this tenant may have up to 64");
    let fine = server.put(&acme, "faulty", "faulty", "[limits]\nmemory_mib = 64\n", "");
    assert_eq!(fine.status, 201, "{}", fine.text());
    let kept = server.put(&acme, "faulty", "kept", "[limits]\nmemory_mib = 64\n[scale]\nmin = 1\n", "");
    kept.is_problem(422, "limit_above_tenants", "resident_gpu_mib");
    assert_eq!(server.put(&acme, "hello", "two", "[limits]\nmemory_mib = 64\n", "").status, 201);
    let third = server.put(&acme, "hello", "three", "[limits]\nmemory_mib = 64\n", "");
    third.is_problem(429, "tenant_limit", "functions = 2; in use: 2");
    server.call_as(&acme, "/f/acme/faulty/memory", b"").is_problem(502, "function_trapped", "limits.memory_mib = 64");
    set(&server, "acme", &json!({ "memory_mib": 32 }));
    server.call_as(&acme, "/f/acme/faulty/memory", b"").is_problem(502, "function_trapped", "limits.memory_mib = 32");
    let bad = server.control(&server.operator(), "PATCH", "tenants/acme/limits", &json!({ "memory": 1 }));
    bad.is_problem(400, "invalid", "the nearest known one is \"memory_mib\"");
    let bad =
        server.control(&server.operator(), "PATCH", "tenants/acme/limits", &json!({ "gpu_weight": 0, "keys": 0 }));
    // All errors are reported at once.
    bad.is_problem(400, "invalid", "keys = 0; it may be 1 to");
    bad.is_problem(400, "invalid", "gpu_weight = 0; it may be 1 to 1000");
}

#[test]
fn a_full_server_is_shared_fairly() {
    let server = server("spares = 0\nrequests_max = 2");
    let (acme, zoo) = (server.tenant("acme", &json!({})), server.tenant("zoo", &json!({})));
    assert_eq!(server.put(&acme, "faulty", "faulty", "", "").status, 201);
    assert_eq!(server.put(&zoo, "faulty", "faulty", "", "").status, 201);
    for (key, name) in [(&acme, "acme"), (&zoo, "zoo")] {
        assert_eq!(server.call_as(key, &format!("/f/{name}/faulty/say"), b"").status, 200);
    }
    let in_flight = |tenant: &str| {
        server.control(&server.operator(), "GET", &format!("tenants/{tenant}"), &Value::Null).json()["in_flight"]
            .as_u64()
    };
    std::thread::scope(|scope| {
        let flood: Vec<_> =
            (0..8).map(|_| scope.spawn(|| server.call_as(&acme, "/f/acme/faulty/nap?ms=700", b""))).collect();
        wait_until("one tenant has filled the server", || in_flight("acme") == Some(8));
        let began = std::time::Instant::now();
        assert_eq!(server.call_as(&zoo, "/f/zoo/faulty/say", b"").status, 200);
        let waited = began.elapsed();
        for call in flood {
            assert_eq!(call.join().unwrap().status, 200);
        }
        // The flood takes four rounds of requests. The other tenant is served after the first round.
        assert!(waited * 2 < began.elapsed(), "{waited:?} of {:?}", began.elapsed());
    });
}

#[test]
fn a_client_that_leaves_at_once_gives_everything_back_and_pays_for_what_was_done() {
    use std::io::Write;
    let server = server("spares = 0");
    let acme = server.tenant("acme", &json!({ "concurrency": 4 }));
    assert_eq!(server.put(&acme, "hello", "hello", "[limits]\nconcurrency = 4\n", "").status, 201);
    assert_eq!(server.call_as(&acme, "/f/acme/hello", b"").status, 200);
    let requests = || {
        let usage = server.control(&acme, "GET", "usage", &Value::Null).json();
        usage["total"]["requests"].as_u64().unwrap()
    };
    for _ in 0..40 {
        let mut stream = std::net::TcpStream::connect(server.address).unwrap();
        write!(stream, "GET /f/acme/hello HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {acme}\r\n\r\n").unwrap();
    }
    wait_until("all permits are free again", || {
        let used = server.control(&acme, "GET", "limits", &Value::Null).json()["used"]["concurrency"].clone();
        used == 0 && requests() >= 1
    });
    assert_eq!(server.call_as(&acme, "/f/acme/hello", b"").status, 200);
}

#[test]
fn memory_kept_by_min_is_limited_for_a_tenant_as_a_whole() {
    let server = server("spares = 0");
    let acme = server.tenant("acme", &json!({ "resident_gpu_mib": 100_000 }));
    let manifest = |asset: &str| format!("[scale]\nmin = 1\n[assets]\ntable = {asset:?}\n");
    for (name, byte) in [("one", 1), ("two", 2)] {
        let path = format!("/api/v1/assets/{name}");
        let put = server.send_bare("PUT", &path, &[("x-gannet-key", &acme)], &vec![byte; 8 << 20]);
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert_eq!(server.put(&acme, "lookup", "one", &manifest("one"), "").status, 201);
    let two = server.put(&acme, "lookup", "two", &manifest("two"), "?dry_run=true");
    assert_eq!(two.status, 200, "{}", two.text());
    // With a limit of 1, the refusal names what one function needs alone.
    set(&server, "acme", &json!({ "resident_gpu_mib": 1 }));
    let told = server.put(&acme, "lookup", "one", &manifest("two"), "").json()["detail"].as_str().unwrap().to_owned();
    let alone: u64 = told.split("= ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    set(&server, "acme", &json!({ "resident_gpu_mib": alone + 7 }));
    let both = server.put(&acme, "lookup", "two", &manifest("two"), "");
    both.is_problem(422, "limit_above_tenants", &format!("resident_gpu_mib = {}", alone + 8));
    assert_eq!(server.put(&acme, "lookup", "two", &manifest("one"), "").status, 201, "an asset is kept once");
}
