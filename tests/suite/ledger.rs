//! The ledger: what is billed, that sums agree, and that nothing acknowledged is ever lost.

use crate::support::{KEY, Options, Server, text, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Mutex;
use tempfile::TempDir;

const PRICES: &str = "spares = 0\n[prices]\ncpu_micro_units_per_s = 3000\ngpu_micro_units_per_s = 5000\n";

/// Sends a request. Returns the response only if its body is complete.
fn whole(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<crate::support::Response> {
    server.try_send(method, path, headers, body).filter(|answer| answer.body.is_ok())
}

fn billed(server: &Server, id: &str) -> Value {
    let mut receipt = Value::Null;
    wait_until("the receipt is acknowledged", || {
        receipt = server.get_json(&format!("/api/v1/requests/{id}"));
        receipt["billed"] == true
    });
    receipt
}

#[test]
fn usage_is_the_sum_of_the_receipts_and_says_the_same_in_every_grouping() {
    let server = Server::start_with(&Options { config: Some(PRICES), ..Options::default() });
    for name in ["hello", "mandelbrot", "faulty"] {
        server.deploy(name);
    }
    let mut sum = 0;
    for (function, path) in [
        ("hello", "/"),
        ("mandelbrot", "/?width=64&height=64"),
        ("faulty", "/trap"),
        ("faulty", "/say"),
        ("hello", "/"),
    ] {
        let answer = server.call(function, path, b"");
        let receipt = billed(&server, answer.header("x-request-id"));
        let number = |name: &str| receipt[name].as_u64().unwrap();
        assert_eq!(number("gpu_ms"), number("gpu_ns").div_ceil(1_000_000));
        assert_eq!(number("cpu_ms"), number("guest_us").div_ceil(1000));
        assert_eq!(number("cost_micro_units"), number("gpu_ms") * 5 + number("cpu_ms") * 3, "{receipt}");
        assert_eq!(receipt["price"]["gpu_micro_units_per_s"], 5000, "prices are frozen on each line");
        sum += number("cost_micro_units");
    }
    for by in ["function", "day", "version"] {
        let usage = server.get_json(&format!("/api/v1/usage?by={by}"));
        assert_eq!(usage["total"]["micro_units"], sum, "{usage}");
        assert_eq!((&usage["total"]["requests"], &usage["total"]["errors"]), (&json!(5), &json!(1)));
        let rows: u64 = usage["rows"].as_array().unwrap().iter().map(|row| row["micro_units"].as_u64().unwrap()).sum();
        assert_eq!(rows, sum);
    }
    let csv = server.send("GET", "/api/v1/usage", &[("accept", "text/csv")], b"");
    assert!(csv.header("content-type").starts_with("text/csv"));
    let csv = csv.text();
    assert!(csv.starts_with("BilledCost,BillingAccountId,"), "{csv}");
    let costs: u64 = csv
        .lines()
        .skip(1)
        .map(|line| {
            let cost = line.split(',').next().unwrap();
            cost.replace('.', "").parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(costs, sum);
    let output = server.cli(&["usage", "--by", "function"]);
    assert!(text(&output.stdout).lines().last().unwrap().starts_with("total"), "{}", text(&output.stdout));
    server.send("GET", "/api/v1/usage?from=2026-13-01", &[], b"").is_problem(400, "invalid", "it is a day as in");
    server.send("GET", "/api/v1/usage?by=tenant", &[], b"").is_problem(400, "invalid", "day, function, version");
}

#[test]
fn memory_kept_by_min_is_charged_and_idleness_is_not() {
    let config = "[prices]\nresident_micro_units_per_gib_s = 1000000\n";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    assert_eq!(server.put(KEY, "hello", "kept", "[scale]\nmin = 1\n", "").status, 201);
    assert_eq!(server.put(KEY, "hello", "idle", "", "").status, 201);
    wait_until("a span was charged", || {
        let usage = server.get_json("/api/v1/usage?by=function");
        let rows = usage["rows"].as_array().unwrap().clone();
        assert!(rows.iter().all(|row| row["function"] == "kept"), "{usage}");
        rows.iter().any(|row| row["resident_micro_units"].as_u64().unwrap() > 0)
    });
}

#[test]
fn a_suspended_tenant_does_not_pay_for_kept_memory_and_new_limits_keep_functions_loaded() {
    let config = "spares = 0\n[prices]\nresident_micro_units_per_gib_s = 1000000\n";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    let acme = server.tenant("acme", &json!({ "resident_gpu_mib": 100_000 }));
    for key in [KEY, &acme] {
        assert_eq!(server.put(key, "hello", "kept", "[scale]\nmin = 1\n", "").status, 201);
    }
    let paid = |key: &str| -> u64 {
        let usage = server.control(key, "GET", "usage", &Value::Null).json();
        usage["rows"].as_array().unwrap().iter().map(|row| row["resident_micro_units"].as_u64().unwrap()).sum()
    };
    let spans = |count: usize| {
        for _ in 0..count {
            let before = paid(KEY);
            wait_until("another span was charged", || paid(KEY) > before);
        }
    };
    wait_until("both pay", || paid(KEY) > 0 && paid(&acme) > 0);
    let suspend =
        |state: &str| server.control(&server.operator(), "POST", &format!("tenants/acme/{state}"), &Value::Null);
    assert_eq!(suspend("suspend").status, 200);
    let of_acme = || {
        let headers = [("x-gannet-key", server.operator()), ("x-gannet-tenant", "acme".to_owned())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let usage = server.send_bare("GET", "/api/v1/usage", &headers, b"").json();
        usage["rows"].as_array().unwrap().iter().map(|row| row["resident_micro_units"].as_u64().unwrap()).sum::<u64>()
    };
    spans(2);
    let before = of_acme();
    spans(2);
    assert_eq!(of_acme(), before);
    assert_eq!(suspend("resume").status, 200);
    wait_until("it pays again", || of_acme() > before);

    // Other limits are part of what a worker loads: the function is loaded again without a request.
    let loaded = || -> BTreeSet<String> {
        let maps =
            server.children("__worker").into_iter().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/maps")));
        let maps: String = maps.flatten().collect();
        maps.split("/component-").skip(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect()).collect()
    };
    let first = loaded();
    assert!(!first.is_empty(), "tests run as root, so workers map their components from files");
    std::fs::write(server.data.with_extension("toml"), format!("{config}[limits]\ncpu_ms = 900\n")).unwrap();
    server.signal(rustix::process::Signal::HUP);
    wait_until("it is loaded with its new limits", || !loaded().is_subset(&first));
}

#[test]
fn no_acknowledged_line_deploy_key_or_limit_is_lost_when_the_server_is_killed_under_load() {
    // The long suite runs two hundred rounds. A few are enough here to exercise each path.
    let rounds = std::env::var("GANNET_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4_u32);
    let data = TempDir::new().unwrap();
    let config = "spares = 0\n[edge]\nwrong_keys_per_s = 1000000\n[limits]\nchanges_per_s = 1000000\n";
    let options = Options { data: Some(data.path()), config: Some(config), not_dev: true, ..Options::default() };
    let server = Server::start_with(&options);
    let acme = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&acme, "hello", "hello", "", "").status, 201);
    let mut server = server;
    let (mut lines, mut keys, mut functions): (BTreeSet<String>, Vec<String>, BTreeSet<String>) = Default::default();
    let mut limit = 1000;
    let mut slowest = std::time::Duration::ZERO;
    for round in 0..rounds {
        let operator = server.operator();
        let done = Mutex::new((Vec::new(), Vec::new(), Vec::new(), limit));
        std::thread::scope(|scope| {
            // Each thread stops when a response is missing or incomplete.
            scope.spawn(|| {
                while let Some(answer) = whole(&server, "GET", "/f/acme/hello", &[("x-gannet-key", &acme)], b"") {
                    let path = format!("/api/v1/requests/{}", answer.header("x-request-id"));
                    loop {
                        let Some(receipt) = whole(&server, "GET", &path, &[("x-gannet-key", &acme)], b"") else {
                            return;
                        };
                        if receipt.json()["billed"] == true {
                            done.lock().unwrap().0.push(answer.header("x-request-id").to_owned());
                            break;
                        }
                    }
                }
            });
            scope.spawn(|| {
                let headers = [("x-gannet-key", acme.as_str()), ("content-type", "application/json")];
                while let Some(made) = whole(&server, "POST", "/api/v1/tenants/acme/keys", &headers, b"{}") {
                    if made.status == 429 {
                        return;
                    }
                    let made = made.json();
                    let key = made["key"].as_str().unwrap().to_owned();
                    let revoke = format!("/api/v1/tenants/acme/keys/{}", made["id"].as_str().unwrap());
                    done.lock().unwrap().1.push((key.clone(), true));
                    // Every second key is revoked again. While that is in progress the key may be valid or not, so it
                    // is not listed.
                    if done.lock().unwrap().1.len() % 2 == 0 {
                        done.lock().unwrap().1.pop();
                        let Some(_) = whole(&server, "DELETE", &revoke, &headers[..1], b"") else { return };
                        done.lock().unwrap().1.push((key, false));
                    }
                }
            });
            scope.spawn(|| {
                let headers = [("x-gannet-key", acme.as_str()), ("content-type", "application/json")];
                for number in 0.. {
                    let patch = format!("{{\"env\": {{\"ROUND\": \"{round}-{number}\"}}}}");
                    let Some(answer) = whole(&server, "PATCH", "/api/v1/functions/hello", &headers, patch.as_bytes())
                    else {
                        return;
                    };
                    assert_eq!(answer.status, 201, "{}", answer.text());
                    done.lock().unwrap().2.push(format!("{round}-{number}"));
                }
            });
            scope.spawn(|| {
                let headers = [("x-gannet-key", operator.as_str()), ("content-type", "application/json")];
                for number in 1.. {
                    let value = u64::from(round) * 1_000_000 + number;
                    let patch = format!("{{\"gpu_ms_per_day\": {value}}}");
                    let Some(answer) =
                        whole(&server, "PATCH", "/api/v1/tenants/acme/limits", &headers, patch.as_bytes())
                    else {
                        return;
                    };
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    done.lock().unwrap().3 = value;
                }
            });
            wait_until("each thread has done something", || {
                let done = done.lock().unwrap();
                done.0.len() > 2 && done.1.len() > 2 && done.2.len() > 2
            });
            server.kill();
        });
        let (new_lines, new_keys, new_functions, new_limit) = done.into_inner().unwrap();
        drop(server);
        let began = std::time::Instant::now();
        server = Server::start_with(&options);
        slowest = slowest.max(began.elapsed());
        lines.extend(new_lines);
        for id in &lines {
            let receipt = server.call_as(&acme, &format!("/api/v1/requests/{id}"), b"");
            assert_eq!(receipt.status, 200, "round {round}: the line of {id} is gone");
            assert_eq!(receipt.json()["billed"], true);
        }
        let usage = server.control(&acme, "GET", "usage", &Value::Null).json();
        assert!(usage["total"]["requests"].as_u64().unwrap() >= lines.len() as u64, "{usage}");
        for (key, valid) in &new_keys {
            let status = server.control(key, "GET", "whoami", &Value::Null).status;
            assert_eq!(status, if *valid { 200 } else { 401 }, "round {round}: a key");
        }
        keys.extend(new_keys.into_iter().filter(|(_, valid)| *valid).map(|(key, _)| key));
        let last = new_functions.last().cloned().unwrap();
        functions.extend(new_functions);
        let now = server.control(&acme, "GET", "functions/hello", &Value::Null).json();
        let env = now["manifest"]["env"]["ROUND"].as_str().unwrap().to_owned();
        let number = |text: &str| text.split('-').nth(1).unwrap().parse::<u32>().unwrap();
        assert!(number(&env) == number(&last) || number(&env) == number(&last) + 1, "{env} after {last}");
        limit =
            server.control(&acme, "GET", "limits", &Value::Null).json()["limits"]["gpu_ms_per_day"].as_u64().unwrap();
        assert!(limit == new_limit || limit == new_limit + 1, "{limit} after {new_limit}");
        assert_eq!(server.call_as(&acme, "/f/acme/hello", b"").text(), "hello, world\n");
        // Deleted so that the next round has room for its keys.
        for key in keys.drain(..) {
            let who = server.control(&key, "GET", "whoami", &Value::Null).json();
            let path = format!("tenants/acme/keys/{}", who["key"].as_str().unwrap());
            assert_eq!(server.control(&acme, "DELETE", &path, &Value::Null).status, 200);
        }
    }
    eprintln!("{rounds} rounds, {} lines, {} versions, slowest start {slowest:?}", lines.len(), functions.len());
}
