//! A function that is spread over several places: the software adapter, listed several times in the server's file.

use crate::support::{KEY, Options, Response, Server, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// A server's file with so many places, and no spares.
fn places(count: usize, workers_max: usize) -> String {
    format!("spares = 0\nworkers_max = {workers_max}\n{}", "[[gpus]]\nindex = 0\n".repeat(count))
}

fn start(count: usize) -> Server {
    Server::start_with(&Options { config: Some(&places(count, 8)), ..Options::default() })
}

fn deploy(server: &Server, component: &str, manifest: &str) {
    let deployed = server.put(KEY, component, "f", manifest, "");
    assert!(deployed.status < 300, "{}", deployed.text());
}

fn function(server: &Server) -> Value {
    server.get_json("/api/v1/functions/f")
}

/// The number of workers that have loaded the function, and of those that are wanted.
fn workers(server: &Server) -> (u64, u64) {
    let function = function(server);
    (function["workers"].as_u64().unwrap(), function["workers_wanted"].as_u64().unwrap())
}

/// The number of workers in each place.
fn in_places(server: &Server) -> Vec<u64> {
    let text = server.send_bare("GET", "/metrics", &[("x-gannet-key", &server.operator())], b"").text();
    let lines = text.lines().filter(|line| line.starts_with("gannet_slot_workers{"));
    let mut all: Vec<(String, u64)> = lines
        .map(|line| {
            let (slot, count) = line.rsplit_once(' ').unwrap();
            (slot.to_owned(), count.parse().unwrap())
        })
        .collect();
    all.sort();
    all.into_iter().map(|(_, count)| count).collect()
}

/// Calls the function with this many at once until `is_over`. Returns the places that served a request.
fn flood(
    server: &Server,
    callers: usize,
    call: impl Fn() -> Response + Sync,
    is_over: impl Fn() -> bool,
) -> BTreeSet<u64> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..callers)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = BTreeSet::new();
                    while !over.load(Ordering::Relaxed) {
                        let answer = call();
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        seen.extend(server.receipt(&answer)["slot"].as_u64());
                    }
                    seen
                })
            })
            .collect();
        wait_until("the flood is over", &is_over);
        over.store(true, Ordering::Relaxed);
        calls.into_iter().flat_map(|call| call.join().unwrap()).collect()
    })
}

#[test]
fn requests_are_spread_over_two_places_and_no_worker_is_left_when_nobody_calls() {
    let server = start(3);
    deploy(
        &server,
        "faulty",
        "[scale]\nrule = \"request_count\"\nrequests_per_worker = 1\nmax = 2\nidle_timeout_s = 2\n",
    );
    assert_eq!((workers(&server), in_places(&server)), ((0, 0), vec![0, 0, 0]));
    let served = AtomicBool::new(false);
    let call = || {
        let answer = server.call("f", "/nap?ms=300", b"");
        if server.receipt(&answer)["slot"] == 1 {
            served.store(true, Ordering::Relaxed);
        }
        answer
    };
    let seen = flood(&server, 4, call, || served.load(Ordering::Relaxed) && workers(&server) == (2, 2));
    assert_eq!((seen, in_places(&server)), (BTreeSet::from([0, 1]), vec![1, 1, 0]), "never more than scale.max");
    let listed = text(&server.cli(&["list"]).stdout);
    assert!(listed.contains("WORKERS"), "{listed}");
    wait_until("nobody wants a worker", || server.metric("workers_wanted") == 0);
    wait_until("no worker is left", || in_places(&server) == [0, 0, 0] && workers(&server) == (0, 0));
}

#[test]
fn a_function_with_max_1_stays_in_one_place() {
    let server = start(2);
    deploy(&server, "faulty", "[scale]\nrule = \"request_count\"\nrequests_per_worker = 1\nmax = 1\n");
    let served = std::sync::atomic::AtomicU32::new(0);
    let call = || {
        let answer = server.call("f", "/nap?ms=300", b"");
        served.fetch_add(1, Ordering::Relaxed);
        answer
    };
    let seen = flood(&server, 4, call, || served.load(Ordering::Relaxed) > 12);
    assert_eq!((seen.len(), server.metric("workers"), workers(&server)), (1, 1, (1, 1)));
}

#[test]
fn a_request_that_waits_too_long_gets_the_function_one_more_worker() {
    let server = start(2);
    let manifest = "[limits]\nconcurrency = 2\n[scale]\nqueue_delay_s = 1\nmax = 9\nidle_timeout_s = 2\n";
    deploy(&server, "faulty", manifest);
    // Two run at once, so that others wait for longer than a second.
    let seen = flood(&server, 6, || server.call("f", "/nap?ms=800", b""), || workers(&server) == (2, 2));
    assert!(seen.contains(&0), "{seen:?}");
    wait_until("no worker is left", || in_places(&server) == [0, 0]);
}

#[test]
fn min_2_keeps_two_workers_in_two_places_and_one_that_dies_is_replaced() {
    let config = format!("{}[prices]\nresident_micro_units_per_gib_s = 1000000\n", places(2, 8));
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    deploy(&server, "hello", "[scale]\nmin = 2\nidle_timeout_s = 1\n");
    wait_until("two workers are there before anyone calls", || {
        in_places(&server) == [1, 1] && workers(&server) == (2, 2)
    });
    // A span of ten seconds, so ten times the idle timeout.
    wait_until("kept memory was charged", || {
        let usage = server.get_json("/api/v1/usage?by=function");
        usage["rows"].as_array().unwrap().iter().any(|row| row["resident_micro_units"].as_u64().unwrap() > 0)
    });
    assert_eq!((in_places(&server), workers(&server)), (vec![1, 1], (2, 2)));
    let [one, two] = server.children("__worker")[..] else { panic!("two workers") };
    kill_process(Pid::from_raw(two).unwrap(), Signal::KILL).unwrap();
    wait_until("another takes its place", || {
        let now = server.children("__worker");
        now.len() == 2 && now.contains(&one) && !now.contains(&two) && workers(&server) == (2, 2)
    });
    // Another function of the tenant gets into the workers that there are.
    assert!(server.put(KEY, "faulty", "g", "[scale]\nmin = 2\n", "").status < 300);
    wait_until("both workers have loaded it too", || {
        server.get_json("/api/v1/functions/g")["workers"] == 2 && in_places(&server) == [1, 1]
    });
    let more = server.put(KEY, "hello", "g", "[scale]\nmin = 5\n", "");
    more.is_problem(400, "invalid", "scale.min = 5; it may be 0 to 4");
}

#[test]
fn each_of_the_kept_workers_counts_against_the_tenants_limit() {
    let server = Server::start_with(&Options { not_dev: true, config: Some(&places(2, 8)), ..Options::default() });
    let acme = server.tenant("acme", &json!({ "resident_gpu_mib": 1 }));
    let [one, two, four] = [1, 2, 4].map(|min| -> u64 {
        let refused = server.put(&acme, "hello", "f", &format!("[scale]\nmin = {min}\n"), "");
        refused.is_problem(422, "limit_above_tenants", "resident_gpu_mib");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        detail.split("= ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap()
    });
    // MiB that are rounded up.
    assert!(one > 1 && (one * 2 - 1..=one * 2).contains(&two), "{one} {two}");
    assert_eq!(four, two, "there are two places");
}

#[test]
fn a_tenant_that_has_spread_leaves_another_its_first_worker() {
    let server = Server::start_with(&Options { not_dev: true, config: Some(&places(2, 1)), ..Options::default() });
    let [acme, zoo] = ["acme", "zoo"].map(|tenant| server.tenant(tenant, &json!({})));
    let manifest = "[scale]\nrule = \"request_count\"\nrequests_per_worker = 1\n";
    for key in [&acme, &zoo] {
        assert!(server.put(key, "faulty", "f", manifest, "").status < 300);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = server.call_as(&acme, "/f/acme/f/nap?ms=300", b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
        wait_until("acme has both places", || in_places(&server) == [1, 1]);
        // There is no room left, and both are busy all the time.
        let answer = server.call_as(&zoo, "/f/zoo/f/say", b"");
        assert_eq!(answer.text(), "said");
        over.store(true, Ordering::Relaxed);
    });
}

fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = server.send(method, &format!("/v2/f/{path}"), &[], text.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn submit(server: &Server, input: &Value) -> String {
    ask(server, "POST", "run", &json!({ "input": input }))["id"].as_str().unwrap().to_owned()
}

fn status(server: &Server, id: &str) -> Value {
    ask(server, "GET", &format!("status/{id}"), &Value::Null)
}

#[test]
fn queued_jobs_count_and_are_spread_too() {
    let server = start(2);
    let manifest =
        "[jobs]\nconcurrency = 4\n[scale]\nrule = \"request_count\"\nrequests_per_worker = 4\nidle_timeout_s = 3\n";
    deploy(&server, "task", manifest);
    let submit_more = || -> Vec<String> { (0..8).map(|_| submit(&server, &json!({ "sleep_ms": 700 }))).collect() };
    let mut jobs = submit_more();
    // Four run at once, so one worker would do for those; the queued ones ask for the other.
    wait_until("the function has two workers", || {
        if jobs.iter().all(|id| status(&server, id)["status"] == "COMPLETED") {
            jobs.extend(submit_more());
        }
        workers(&server) == (2, 2)
    });
    jobs.extend(submit_more());
    wait_until("all have ended", || jobs.iter().all(|id| status(&server, id)["status"] == "COMPLETED"));
    let slots: BTreeSet<u64> = jobs
        .iter()
        .filter_map(|id| {
            let request = status(&server, id)["requestId"].as_str().unwrap().to_owned();
            server.get_json(&format!("/api/v1/requests/{request}"))["slot"].as_u64()
        })
        .collect();
    assert_eq!(slots, BTreeSet::from([0, 1]));
    let health = ask(&server, "GET", "health", &Value::Null);
    assert_eq!(health["workers"]["running"], 0, "{health}");
    wait_until("no worker is left", || in_places(&server) == [0, 0]);
    assert_eq!(ask(&server, "GET", "health", &Value::Null)["workers"]["idle"], 0);
}

/// The compiled components that a worker has loaded: it maps them into its memory.
fn components(worker: i32) -> BTreeSet<String> {
    let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).unwrap_or_default();
    let names = maps.lines().filter_map(|line| line.rsplit('/').next()).filter(|name| name.starts_with("component-"));
    names.map(|name| name.trim_end_matches(" (deleted)").to_owned()).collect()
}

#[test]
fn a_further_worker_that_was_being_started_during_a_deploy_does_not_keep_the_version_before() {
    let server = start(2);
    let manifest =
        |mode: &str| format!("[env]\nMODE = \"{mode}\"\n[scale]\nrule = \"request_count\"\nrequests_per_worker = 1\n");
    deploy(&server, "faulty", &manifest("one"));
    assert_eq!(server.call("f", "/say", b"").text(), "said");
    let [first] = server.children("__worker")[..] else { panic!("one worker") };
    assert_eq!(components(first).len(), 1);
    let head =
        format!("POST /f/dev/f/sleep HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\ncontent-length: 0\r\n\r\n");
    let clients: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut client = TcpStream::connect(server.address).unwrap();
            client.write_all(head.as_bytes()).unwrap();
            client
        })
        .collect();
    let mut further = None;
    wait_until("a further worker is being started", || {
        further = server.children("__worker").into_iter().find(|worker| *worker != first);
        further.is_some()
    });
    let (further, process) = (further.unwrap(), Pid::from_raw(further.unwrap()).unwrap());
    kill_process(process, Signal::STOP).unwrap();
    deploy(&server, "faulty", &manifest("two"));
    kill_process(process, Signal::CONT).unwrap();
    let served = AtomicBool::new(false);
    let call = || {
        let answer = server.call("f", "/nap?ms=300", b"");
        if server.receipt(&answer)["slot"] == 1 {
            served.store(true, Ordering::Relaxed);
        }
        answer
    };
    flood(&server, 4, call, || served.load(Ordering::Relaxed));
    wait_until("it has only the second version", || components(further).len() == 1);
    drop(clients);
    wait_until("the first one has too", || components(first).len() == 1);
}

/// Makes every start of a process fail until the server gets its folder back.
fn take_run_folder(server: &Server) -> impl Fn() {
    let run = server.data.join("run");
    let aside = server.data.join("run-aside");
    std::fs::rename(&run, &aside).unwrap();
    move || std::fs::rename(&aside, &run).unwrap()
}

#[test]
fn a_job_whose_worker_cannot_start_waits_and_says_why_and_runs_once_it_can() {
    let server = start(1);
    deploy(&server, "task", "");
    let give_back = take_run_folder(&server);
    let id = submit(&server, &json!({ "say": "x" }));
    // Each is read until an attempt does not run just then.
    let mut waiting = Value::Null;
    wait_until("it has failed three times", || {
        waiting = status(&server, &id);
        waiting["waitReason"] == "crash_loop"
    });
    assert_eq!((&waiting["status"], &waiting["errorCode"]), (&json!("IN_QUEUE"), &json!("function_cannot_start")));
    assert!(waiting["error"].as_str().unwrap().contains("no worker could be started"), "{waiting}");
    let mut health = Value::Null;
    wait_until("the function says so", || {
        health = ask(&server, "GET", "health", &Value::Null);
        health["waitReason"] == "crash_loop"
    });
    assert_eq!(health["workers"]["unhealthy"], 1, "{health}");
    assert_eq!(health["lastError"], "no worker could be started");
    assert_eq!(health["workers"]["throttled"], 0, "{health}");
    let shown = server.cli(&["queue", "status", "f"]);
    let shown = text(&shown.stdout);
    assert!(shown.contains("last error     no worker could be started"), "{shown}");
    let refused = server.call("f", "/", b"{}");
    refused.is_problem(503, "function_cannot_start", "in a row, last because no worker could be started");
    assert!(!refused.header("retry-after").is_empty());
    give_back();
    wait_until("it has run", || status(&server, &id)["status"] == "COMPLETED");
}

#[test]
fn a_kept_function_is_no_longer_failing_once_its_worker_is_up_again() {
    let server = start(1);
    deploy(&server, "task", "[scale]\nmin = 1\n");
    wait_until("its worker is there", || workers(&server) == (1, 1));
    let give_back = take_run_folder(&server);
    let [worker] = server.children("__worker")[..] else { panic!("one worker") };
    kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    wait_until("it must wait", || server.call("f", "/", b"{}").text().contains("it is tried again in"));
    let unhealthy = || ask(&server, "GET", "health", &Value::Null)["workers"]["unhealthy"] == 1;
    assert!(unhealthy());
    give_back();
    // Nobody calls it meanwhile.
    wait_until("its worker is there again", || workers(&server) == (1, 1));
    assert!(!unhealthy());
    let answer = server.call("f", "/", br#"{ "id": "x", "input": { "say": "x" } }"#);
    assert_eq!((answer.status, answer.header("x-gannet-start")), (200, "hot"), "{}", answer.text());
}

#[test]
fn a_tagged_version_that_cannot_be_loaded_holds_up_neither_requests_nor_jobs_of_the_current_one() {
    let server = start(1);
    let compiled = || -> BTreeSet<std::path::PathBuf> {
        let files = std::fs::read_dir(server.data.join("compiled/dev")).unwrap();
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().unwrap() == "cwasm").collect()
    };
    deploy(&server, "task", "");
    let before = compiled();
    let tagged = server.put(KEY, "hello", "f", "", "?no_traffic=true&tag=next");
    assert_eq!(tagged.status, 201, "{}", tagged.text());
    let own: Vec<_> = compiled().difference(&before).cloned().collect();
    let say = || server.call("f", "/", br#"{ "id": "x", "input": { "say": "x" } }"#);
    let next = || server.send("GET", "/f/dev/f@next/", &[], b"");
    assert_eq!((say().status, next().status), (200, 200));
    // A new worker has neither version, and can load only one of them.
    let [worker] = server.children("__worker")[..] else { panic!("one worker") };
    kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    wait_until("the worker has ended", || server.metric("workers") == 0);
    own.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(say().status, 200);
    wait_until("the tagged version must wait", || {
        let refused = next();
        refused.is_problem(503, "function_cannot_start", "in a row, last because its worker could not load it");
        refused.text().contains("it is tried again in")
    });
    let answer = say();
    assert_eq!((answer.status, answer.header("x-gannet-start")), (200, "hot"), "{}", answer.text());
    let id = submit(&server, &json!({ "say": "x" }));
    wait_until("a job runs too", || {
        let status = status(&server, &id);
        assert_ne!(status["waitReason"], "crash_loop", "{status}");
        status["status"] == "COMPLETED"
    });
    let health = ask(&server, "GET", "health", &Value::Null);
    assert_eq!((&health["workers"]["unhealthy"], &health["lastError"]), (&json!(0), &Value::Null), "{health}");
}

#[test]
fn a_tagged_version_whose_workers_are_killed_again_and_again_holds_up_nobody_else() {
    let server = start(1);
    deploy(&server, "faulty", "");
    let tagged = server.put(KEY, "faulty", "f", "[env]\nMODE = \"next\"\n", "?no_traffic=true&tag=next");
    assert_eq!(tagged.status, 201, "{}", tagged.text());
    let next = |method: &str, path: &str| server.send(method, &format!("/f/dev/f@next{path}"), &[], b"");
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let killed = scope.spawn(|| next("POST", "/nap?ms=20000"));
            wait_until("the tenant has a worker", || server.metric("workers") == 1);
            // The request is in its worker once a later request got its response.
            assert_eq!(next("GET", "/say").text(), "said");
            for pid in &server.children("__worker") {
                kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
            }
            killed.join().unwrap().is_problem(502, "function_killed", "signal 9");
        });
        wait_until("the worker has ended", || server.metric("workers") == 0);
    }
    next("GET", "/say").is_problem(503, "function_backing_off", "3 times in a row");
    assert_eq!(function(&server)["health"]["kills"]["count"], 3);
    assert_eq!(server.call("f", "/say", b"").text(), "said");
}

#[test]
fn jobs_that_wait_for_their_tenants_money_keep_no_worker_and_run_when_there_is_more() {
    let config = format!("{}[prices]\ncpu_micro_units_per_s = 1000000\n", places(2, 8));
    let server = Server::start_with(&Options { not_dev: true, config: Some(&config), ..Options::default() });
    let acme = server.tenant("acme", &json!({}));
    let manifest = "[jobs]\nconcurrency = 4\n[scale]\nrule = \"request_count\"\nrequests_per_worker = 1\nmax = 2\nidle_timeout_s = 1\n";
    assert!(server.put(&acme, "task", "f", manifest, "").status < 300);
    let send = |method: &str, path: &str, body: &str| {
        let answer = server.send_bare(method, &format!("/v2/f/{path}"), &[("x-gannet-key", &acme)], body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let submit = || send("POST", "run", r#"{ "input": { "say": "x" } }"#)["id"].as_str().unwrap().to_owned();
    let status = |id: &String| send("GET", &format!("status/{id}"), "");
    let limit = |limit: Value| {
        let limits = json!({ "spend_micro_units_per_month": limit });
        let answer = server.control(&server.operator(), "PATCH", "tenants/acme/limits", &limits);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let first = submit();
    wait_until("one has run", || status(&first)["status"] == "COMPLETED");
    limit(json!(1));
    let jobs: Vec<String> = (0..8).map(|_| submit()).collect();
    wait_until("they wait for money", || jobs.iter().all(|id| status(id)["waitReason"] == "quota"));
    // The queue asks for two workers as long as it is there, but they would have nothing to do.
    wait_until("no worker is left", || in_places(&server) == [0, 0] && server.metric("workers_wanted") == 0);
    assert!(jobs.iter().all(|id| status(id)["status"] == "IN_QUEUE"));
    limit(Value::Null);
    wait_until("they have run", || jobs.iter().all(|id| status(id)["status"] == "COMPLETED"));
}

#[test]
fn a_version_that_is_not_served_any_more_wants_no_worker_however_long_the_queue_is() {
    let server = start(2);
    let manifest = |mode: &str| {
        format!(
            "[env]\nMODE = \"{mode}\"\n[jobs]\nconcurrency = 2\n[scale]\nrule = \"request_count\"\nrequests_per_worker = 1\n"
        )
    };
    deploy(&server, "task", &manifest("one"));
    for _ in 0..6 {
        submit(&server, &json!({ "sleep_ms": 300_000 }));
    }
    wait_until("the first version has two workers", || workers(&server) == (2, 2));
    deploy(&server, "task", &manifest("two"));
    // Two attempts go on in the first version, and the queue goes on for both.
    wait_until("the second version has two workers, and the first wants none", || {
        workers(&server) == (2, 2) && server.metric("workers_wanted") == 2
    });
    assert_eq!(in_places(&server), [1, 1]);
}

#[test]
fn a_function_that_never_starts_fails_its_jobs_and_costs_nothing() {
    let server = start(1);
    deploy(&server, "task", "[jobs]\nstart_attempts = 3\n");
    let give_back = take_run_folder(&server);
    let id = submit(&server, &json!({ "say": "x" }));
    wait_until("it has failed", || status(&server, &id)["status"] == "FAILED");
    let failed = status(&server, &id);
    assert_eq!((&failed["errorCode"], &failed["attempt"]), (&json!("function_cannot_start"), &json!(3)), "{failed}");
    let usage = server.get_json("/api/v1/usage");
    let rows = usage["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["gpu_micro_units"] == 0 && row["cpu_micro_units"] == 0), "{usage}");
    give_back();
    ask(&server, "POST", &format!("retry/{id}"), &Value::Null);
    wait_until("it runs when it is retried", || status(&server, &id)["status"] == "COMPLETED");
}

#[test]
fn a_job_says_that_its_function_is_being_loaded() {
    let config = "spares = 1\n";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    deploy(&server, "task", "[jobs]\nconcurrency = 1\n");
    wait_until("a spare is there", || server.metric("spares") == 1);
    let [spare] = server.children("__worker")[..] else { panic!("one spare") };
    let spare = Pid::from_raw(spare).unwrap();
    kill_process(spare, Signal::STOP).unwrap();
    let jobs = [submit(&server, &json!({ "say": "x" })), submit(&server, &json!({ "say": "y" }))];
    wait_until("both wait for the load", || {
        let states = jobs.each_ref().map(|id| status(&server, id));
        states.iter().all(|state| state["waitReason"] == "loading") && states[1]["status"] == "IN_QUEUE"
    });
    assert_eq!(ask(&server, "GET", "health", &Value::Null)["waitReason"], "loading");
    kill_process(spare, Signal::CONT).unwrap();
    wait_until("both have run", || jobs.iter().all(|id| status(&server, id)["status"] == "COMPLETED"));
}

#[test]
fn a_function_that_is_busy_keeps_its_worker_though_its_queue_is_empty_at_each_look() {
    let server = start(1);
    deploy(&server, "task", "[scale]\nidle_timeout_s = 2\n");
    let run = |ms: u64| {
        let done = ask(&server, "POST", "runsync?wait=60000", &json!({ "input": { "sleep_ms": ms } }));
        assert_eq!((&done["status"], &done["attempt"]), (&json!("COMPLETED"), &json!(1)), "{done}");
        server.get_json(&format!("/api/v1/requests/{}", done["requestId"].as_str().unwrap()))["start"].clone()
    };
    run(1);
    let [worker] = server.children("__worker")[..] else { panic!("one worker") };
    // One that takes longer than the idle timeout, and then many that together take three times as long.
    let long = submit(&server, &json!({ "sleep_ms": 5_000 }));
    wait_until("it runs", || status(&server, &long)["status"] == "IN_PROGRESS");
    wait_until("it has ended", || {
        let health = ask(&server, "GET", "health", &Value::Null);
        assert_eq!(health["jobs"]["inQueue"], 0, "{health}");
        assert_eq!(server.children("__worker"), [worker]);
        status(&server, &long)["status"] == "COMPLETED"
    });
    assert_eq!(status(&server, &long)["attempt"], 1);
    for _ in 0..12 {
        assert_eq!((run(500), server.children("__worker")), (json!("hot"), vec![worker]));
    }
    wait_until("no worker is left once nobody asks", || in_places(&server) == [0] && workers(&server) == (0, 0));
}
