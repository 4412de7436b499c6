//! Tenants that share one GPU: fair turns, a process that does not give the GPU back, repeated kills.

use crate::support::{Options, Server, prebuilt, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};

/// A server with two tenants, each with one function, `f`.
struct Shared {
    server: Server,
    operator: String,
    keys: Vec<String>,
}

const TENANTS: [&str; 2] = ["acme", "zoo"];

impl Shared {
    fn start(functions: [&str; 2], config: &str) -> Self {
        let server = Server::start_with(&Options { not_dev: true, config: Some(config), ..Options::default() });
        let operator = std::fs::read_to_string(server.data.join("operator.key")).unwrap().trim().to_owned();
        let mut keys = Vec::new();
        for tenant in TENANTS {
            let made = server.cli_as(&operator, &["tenant", "create", tenant, "--json"]);
            let made: Value = serde_json::from_slice(&made.stdout).unwrap();
            keys.push(made["key"].as_str().unwrap().to_owned());
        }
        let shared = Self { server, operator, keys };
        for (at, function) in functions.iter().enumerate() {
            shared.deploy(at, function);
        }
        shared
    }

    fn deploy(&self, tenant: usize, function: &str) {
        let output = self.try_deploy(tenant, function, "");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Deploys a function. `more` is added to its manifest, after the entries of `[limits]`.
    fn try_deploy(&self, tenant: usize, function: &str, more: &str) -> std::process::Output {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::copy(prebuilt(function), folder.path().join("f.wasm")).unwrap();
        let manifest = format!(
            "name = \"f\"\n[build]\nartifact = \"f.wasm\"\n[limits]\ngpu_time_ms = 60000\ntimeout_ms = 60000\n{more}"
        );
        std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
        self.server.cli_as(&self.keys[tenant], &["deploy", &folder.path().display().to_string()])
    }

    fn gpus(&self) -> Value {
        self.gpus_as(&self.operator)
    }

    fn gpus_as(&self, key: &str) -> Value {
        let headers = [("x-gannet-key", key)];
        self.server.send_bare("GET", "/api/v1/gpus", &headers, b"").json()["gpus"].clone()
    }

    fn call(&self, tenant: usize, method: &str, path: &str, body: &[u8]) -> crate::support::Response {
        let headers = [("x-gannet-key", self.keys[tenant].as_str())];
        self.server.send_bare(method, &format!("/f/{}/f{path}", TENANTS[tenant]), &headers, body)
    }

    fn health(&self, tenant: usize) -> Value {
        let headers = [("x-gannet-key", self.keys[tenant].as_str())];
        self.server.send_bare("GET", "/api/v1/functions/f", &headers, b"").json()["health"].clone()
    }

    fn receipt(&self, tenant: usize, answer: &crate::support::Response) -> Value {
        let headers = [("x-gannet-key", self.keys[tenant].as_str())];
        let path = format!("/api/v1/requests/{}", answer.header("x-request-id"));
        self.server.send_bare("GET", &path, &headers, b"").json()
    }
}

/// Stops a worker while its tenant holds the GPU. Between two slices of its work nobody holds it, and stopping the
/// worker then would not keep the GPU from others. So it is stopped again and again until it holds the GPU.
fn stop_while_it_holds(shared: &Shared, tenant: usize, worker: i32) {
    let pid = Pid::from_raw(worker).unwrap();
    wait_until("the worker is stopped while it holds the gpu", || {
        kill_process(pid, Signal::STOP).unwrap();
        // Messages that it sent before it was stopped are processed during these 50 requests.
        let holds = (0..50).all(|_| shared.gpus()[0]["holder"] == TENANTS[tenant]);
        if !holds {
            let before = ticks(worker);
            kill_process(pid, Signal::CONT).unwrap();
            wait_until("the worker runs again", || ticks(worker) > before + 5);
        }
        holds
    });
    let others = shared.gpus_as(&shared.keys[1]);
    assert!(others[0].get("holder").is_none(), "a tenant must not see who holds the gpu");
}

/// Processor time of a process, in clock ticks.
pub fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}

#[test]
fn a_worker_that_keeps_the_gpu_is_killed_and_its_kernel_quarantined_until_it_is_deployed_again() {
    let shared = Shared::start(["measure", "blur"], "spares = 0\nlease_grace_ms = 1000\n");
    assert_eq!(shared.call(0, "GET", "/small?rounds=1", b"").status, 200);
    let [worker] = shared.server.children("__worker")[..] else { panic!("one worker") };
    let photo = std::fs::read(crate::support::root().join("tests/photo/small.png")).unwrap();
    let answer = std::thread::scope(|scope| {
        let hog = scope.spawn(|| shared.call(0, "GET", "/matmul?rounds=10", b""));
        let before = ticks(worker);
        wait_until("it computes", || ticks(worker) > before + 100);
        stop_while_it_holds(&shared, 0, worker);
        let neighbour = shared.call(1, "POST", "/?radius=2", &photo);
        assert_eq!(neighbour.status, 200, "{}", neighbour.text());
        hog.join().unwrap()
    });
    answer.is_problem(502, "function_killed", "kept the gpu");
    assert_eq!(answer.json()["fault"], "function");
    wait_until("its kernel is quarantined", || shared.health(0)["quarantined_kernels"][0] == "matmul.wgsl");
    let health = shared.health(0);
    assert!(health["kills"]["why"].as_str().unwrap().contains("kept the gpu"), "{health}");
    let refused = shared.call(0, "GET", "/matmul?rounds=1", b"");
    assert!(refused.status >= 400 && refused.text().contains("quarantined"), "{}", refused.text());
    assert_eq!(shared.call(0, "GET", "/small?rounds=1", b"").status, 200, "the other kernel still runs");
    shared.deploy(0, "measure");
    assert_eq!(shared.health(0)["quarantined_kernels"], serde_json::json!([]));
    assert_eq!(shared.call(0, "GET", "/matmul?rounds=1", b"").status, 200);
}

#[test]
fn a_holder_that_dies_costs_its_neighbour_nothing_and_its_own_request_is_repeated() {
    let shared = Shared::start(["measure", "blur"], "spares = 0\n");
    assert_eq!(shared.call(0, "GET", "/small?rounds=1", b"").status, 200);
    let [worker] = shared.server.children("__worker")[..] else { panic!("one worker") };
    let photo = std::fs::read(crate::support::root().join("tests/photo/small.png")).unwrap();
    std::thread::scope(|scope| {
        // A GET may be repeated, so it is sent again to another worker.
        let hog = scope.spawn(|| shared.call(0, "GET", "/matmul?rounds=1", b""));
        let before = ticks(worker);
        wait_until("it computes", || ticks(worker) > before + 50);
        kill_process(Pid::from_raw(worker).unwrap(), Signal::ABORT).unwrap();
        let neighbour = shared.call(1, "POST", "/?radius=2", &photo);
        assert_eq!(neighbour.status, 200, "{}", neighbour.text());
        let answer = hog.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    let health = shared.health(0);
    assert_eq!((&health["kills"]["count"], &health["quarantined_kernels"]), (&1.into(), &serde_json::json!([])));
}

#[test]
fn a_request_whose_report_is_lost_pays_for_the_time_that_its_worker_held_the_gpu() {
    let shared = Shared::start(["measure", "blur"], "spares = 0\n");
    assert_eq!(shared.call(0, "GET", "/small?rounds=1", b"").status, 200);
    let [worker] = shared.server.children("__worker")[..] else { panic!("one worker") };
    std::thread::scope(|scope| {
        let hog = scope.spawn(|| shared.call(0, "POST", "/matmul?rounds=1", b"x"));
        let before = ticks(worker);
        wait_until("it computes", || ticks(worker) > before + 100);
        kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
        let answer = hog.join().unwrap();
        assert_eq!(answer.status, 502, "{}", answer.text());
        let mut receipt = shared.receipt(0, &answer);
        wait_until("the request is billed", || {
            receipt = shared.receipt(0, &answer);
            receipt["billed"] == true
        });
        let (gpu_ms, wall_ms) = (receipt["gpu_ms"].as_u64().unwrap(), receipt["wall_us"].as_u64().unwrap() / 1000);
        assert!(gpu_ms > 100 && gpu_ms <= wall_ms + 1, "{receipt}");
        assert!(receipt["cost_micro_units"].as_u64().unwrap() > 0 && receipt["fault"] != "platform", "{receipt}");
    });
}

#[test]
fn kills_that_repeat_are_backed_off_and_a_new_deploy_is_tried_at_once() {
    let shared = Shared::start(["faulty", "blur"], "spares = 1\n");
    for round in 1..=3 {
        std::thread::scope(|scope| {
            let killed = scope.spawn(|| shared.call(0, "POST", "/nap?ms=20000", b""));
            wait_until("the tenant has a worker", || shared.gpus()[0]["workers"] == 1);
            // The request is in its worker once a later request got its response.
            assert_eq!(shared.call(0, "GET", "/say", b"").text(), "said");
            for pid in &shared.server.children("__worker") {
                kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
            }
            let killed = killed.join().unwrap();
            killed.is_problem(502, "function_killed", "signal 9");
        });
        assert_eq!(shared.health(0)["kills"]["count"], round);
        wait_until("a spare is there", || shared.server.metric("spares") == 1);
    }
    let refused = shared.call(0, "GET", "/say", b"");
    refused.is_problem(503, "function_backing_off", "3 times in a row, last because it ended with signal 9");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(shared.call(1, "GET", "/nothing", b"").header("x-gannet-error"), "", "the neighbour is served");
    shared.deploy(0, "faulty");
    assert_eq!(shared.call(0, "GET", "/say", b"").text(), "said");
}

#[test]
fn two_that_flood_both_go_on_and_are_billed_no_more_than_the_time_there_was() {
    let shared = Shared::start(["measure", "measure"], "spares = 0\n");
    for tenant in [0, 1] {
        assert_eq!(shared.call(tenant, "GET", "/small?rounds=1", b"").status, 200);
    }
    let began = std::time::Instant::now();
    let over = AtomicBool::new(false);
    let used = std::thread::scope(|scope| {
        let flood = |tenant: usize| {
            let (shared, over) = (&shared, &over);
            scope.spawn(move || {
                let (mut used, mut served) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    let answer = shared.call(tenant, "GET", "/large?rounds=3", b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    used += shared.receipt(tenant, &answer)["gpu_ns"].as_u64().unwrap();
                    served += 1;
                    if served == 6 {
                        over.store(true, Ordering::Relaxed);
                    }
                }
                assert!(served > 0);
                used
            })
        };
        let floods = [flood(0), flood(1)];
        floods.map(|flood| flood.join().unwrap())
    });
    let wall = u64::try_from(began.elapsed().as_nanos()).unwrap();
    assert!(used[0] > 0 && used[1] > 0 && used[0] + used[1] <= wall, "{used:?} of {wall}");
}

#[test]
fn tenants_are_placed_by_class_and_a_class_that_is_not_there_is_refused_at_deploy() {
    let twice =
        "spares = 0\n[[gpus]]\nindex = 0\nclass = \"small\"\n[[gpus]]\nindex = 0\nclass = \"big\"\nworkers_max = 3\n";
    let shared = Shared::start(["blur", "blur"], twice);
    let refused = shared.try_deploy(0, "blur", "[gpu]\nclass = [\"huge\"]\n");
    assert!(!refused.status.success());
    let error = text(&refused.stderr);
    assert!(error.contains("huge") && error.contains("small") && error.contains("big"), "{error}");
    assert!(shared.try_deploy(0, "blur", "[gpu]\nclass = [\"huge\", \"big\"]\n").status.success());
    let photo = std::fs::read(crate::support::root().join("tests/photo/small.png")).unwrap();
    for tenant in [0, 1] {
        assert_eq!(shared.call(tenant, "POST", "/?radius=2", &photo).status, 200);
    }
    let gpus = shared.gpus();
    for (place, class, workers_max) in [(0, "small", None), (1, "big", Some(3))] {
        let gpu = &gpus[place];
        assert_eq!((&gpu["class"], &gpu["health"], &gpu["workers"]), (&class.into(), &"ok".into(), &1.into()), "{gpu}");
        assert!(gpu["memory_bytes"].as_u64().unwrap() > 1 << 20 && gpu["context_bytes"].as_u64().unwrap() > 0, "{gpu}");
        assert!(workers_max.is_none_or(|most| gpu["workers_max"] == most), "{gpu}");
    }
    let used = [(0, "big"), (1, "small")].map(|(tenant, class)| {
        assert!(shared.try_deploy(tenant, "faulty", &format!("[gpu]\nclass = [\"{class}\"]\n")).status.success());
        shared.call(tenant, "GET", "/class", b"").text()
    });
    assert_eq!(used, ["big", "small"], "a function sees the class that the operator configured");
    let seen = shared.gpus_as(&shared.keys[0]);
    assert!(seen[0]["health"] == "ok" && seen[0].get("workers").is_none(), "other tenants' workers are hidden");
    let listed = text(&shared.server.cli_as(&shared.keys[0], &["gpu", "list"]).stdout);
    assert!(listed.contains("HEALTH") && listed.contains("big"), "{listed}");
}

#[test]
fn without_room_an_idle_worker_makes_way_and_others_wait_for_it() {
    let shared = Shared::start(["faulty", "faulty"], "spares = 0\nworkers_max = 1\n");
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| shared.call(0, "GET", "/nap?ms=1500", b""));
        wait_until("it is in its worker", || shared.gpus()[0]["workers"] == 1);
        let waited = shared.call(1, "GET", "/say", b"");
        assert_eq!(waited.text(), "said");
        let receipt = shared.receipt(1, &waited);
        assert!(receipt["capacity_us"].as_u64().unwrap() > 100_000, "{receipt}");
        assert_eq!(busy.join().unwrap().text(), "napped");
    });
    let output = shared.try_deploy(0, "faulty", "queue_ms = 200\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    // Starts the other tenant's worker, so that its next request finds it at once.
    assert_eq!(shared.call(1, "GET", "/say", b"").text(), "said");
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| shared.call(1, "GET", "/nap?ms=3000", b""));
        wait_until("it is in its worker", || {
            let path = "tenants/zoo";
            shared.server.control(&shared.operator, "GET", path, &Value::Null).json()["in_flight"] == 1
        });
        wait_until("the only worker is busy", || {
            let refused = shared.call(0, "GET", "/say", b"");
            refused.status == 503 && {
                refused.is_problem(503, "no_capacity", "capacity: no worker was free within");
                true
            }
        });
        assert_eq!(busy.join().unwrap().text(), "napped");
    });
}
