//! What builds may cost: CPU time with a budget, quotas for what they leave, and other tenants' turns.

use crate::support::{KEY, Options, Server, wait_until};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Settings with which the `init` of `faulty` never ends.
const ENDLESS: &str = "[build]\nsnapshot = true\n[env]\nINIT = \"loop\"\n";

fn server() -> Server {
    Server::start_with(&Options { config: Some("spares = 0\nbuild_cpu_s = 2"), ..Options::default() })
}

fn used(server: &Server, key: &str, name: &str) -> u64 {
    server.control(key, "GET", "limits", &Value::Null).json()["used"][name].as_u64().unwrap()
}

fn set_limits(server: &Server, tenant: &str, limits: &Value) {
    let path = format!("tenants/{tenant}/limits");
    assert_eq!(server.control(&server.operator(), "PATCH", &path, limits).status, 200);
}

fn files(server: &Server, folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(server.data.join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

#[test]
fn a_build_is_ended_by_its_cpu_time_and_what_it_used_is_counted() {
    let server = server();
    let acme = server.tenant("acme", &json!({ "build_cpu_ms_per_day": 3_000 }));
    let deploy = |query: &str| server.put(&acme, "faulty", "f", ENDLESS, query);
    deploy("?dry_run=true").is_problem(422, "init_failed", "init used more CPU time than allowed; it may use 2 s");
    let after = used(&server, &acme, "build_cpu_ms_per_day");
    assert!((2_000..60_000).contains(&after), "{after}");
    // The last one may pass the budget, and then no other begins.
    deploy("").is_problem(422, "init_failed", "used more CPU time");
    let refused = server.put(&acme, "hello", "hello", "", "?dry_run=true");
    refused.is_problem(429, "tenant_limit", "build_cpu_ms_per_day = 3000; in use: ");
    set_limits(&server, "acme", &json!({ "build_cpu_ms_per_day": null }));
    assert_eq!(server.put(&acme, "hello", "hello", "", "").status, 201);
    // A component that is built already uses nothing of the budget.
    set_limits(&server, "acme", &json!({ "build_cpu_ms_per_day": 0 }));
    assert_eq!(server.put(&acme, "hello", "again", "", "").status, 201);
    server.put(&acme, "stream", "stream", "", "").is_problem(429, "tenant_limit", "build_cpu_ms_per_day = 0");
}

#[test]
fn a_tenant_with_many_builds_leaves_a_builder_for_others() {
    let server = server();
    let (acme, other) = (server.tenant("acme", &json!({})), server.tenant("other", &json!({})));
    std::thread::scope(|scope| {
        let builds: Vec<_> =
            (0..4).map(|_| scope.spawn(|| server.put(&acme, "faulty", "f", ENDLESS, "").status)).collect();
        wait_until("a build runs", || !server.children("__builder").is_empty());
        assert_eq!(server.put(&other, "hello", "hello", "", "").status, 201);
        assert!(builds.iter().any(|build| !build.is_finished()), "all others waited for those four");
        for build in builds {
            assert_eq!(build.join().unwrap(), 422);
        }
    });
}

#[test]
fn versions_and_builds_have_quotas_in_number_and_in_bytes() {
    let server = server();
    let acme = server.tenant("acme", &json!({ "versions": 3 }));
    let put = |component: &str, name: &str, env: u32| {
        server.put(&acme, component, name, &format!("[env]\nA = \"{env}\"\n"), "")
    };
    for env in 1..=3 {
        assert_eq!(put("hello", "a", env).status, 201);
    }
    put("hello", "a", 4).is_problem(429, "tenant_limit", "versions = 3; in use: 3");
    put("hello", "b", 1).is_problem(429, "tenant_limit", "versions = 3; in use: 3");
    assert_eq!(put("hello", "a", 2).status, 200, "a version that is there already takes nothing");
    assert_eq!(server.control(&acme, "DELETE", "functions/a", &Value::Null).status, 200);
    assert_eq!((put("hello", "b", 1).status, used(&server, &acme, "versions")), (201, 1));

    let compiled = |folder: &str| -> u64 {
        let all = ["compiled", "components"].map(|kind| files(&server, &format!("{kind}/{folder}"), ""));
        all.iter().flatten().map(|path| path.metadata().unwrap().len()).sum()
    };
    assert!(used(&server, &acme, "components_mib") >= compiled("acme") >> 20, "compiled code counts");
    set_limits(&server, "acme", &json!({ "records_mib": 1, "versions": null }));
    let large = |number: usize| format!("[env]\nN = \"{number}\"\nA = \"{}\"\n", "x".repeat(30_000));
    let full = (0..50).find(|number| server.put(&acme, "hello", "large", &large(*number), "").status != 201);
    assert!((30..40).contains(&full.unwrap()), "{full:?}");
    server.put(&acme, "hello", "large", &large(50), "").is_problem(429, "tenant_limit", "records_mib = 1; in use: 1");
    // A secret renews the versions that use it. Old ones make room for them.
    let with_secret = "[secrets]\nnames = [\"TOKEN\"]\n";
    let set = |value: &str| {
        let headers = [("x-gannet-key", acme.as_str())];
        server.send_bare("PUT", "/api/v1/secrets/TOKEN", &headers, value.as_bytes()).status
    };
    assert!(set("value-1") < 300);
    set_limits(&server, "acme", &json!({ "records_mib": 2 }));
    assert_eq!(server.put(&acme, "hello", "large", &format!("{}{with_secret}", large(60)), "").status, 201);
    set_limits(&server, "acme", &json!({ "records_mib": 1 }));
    for number in 0..5 {
        assert!(set(&format!("value-2-{number}")) < 300);
    }
    assert!(used(&server, &acme, "versions") < 10, "{}", used(&server, &acme, "versions"));
    assert_eq!(server.control(&acme, "DELETE", "functions/large", &Value::Null).status, 200);
    set_limits(&server, "acme", &json!({ "components_mib": 1, "versions": null }));
    put("faulty", "f", 1).is_problem(429, "tenant_limit", "components_mib = 1; in use: 1");
    wait_until("nothing is left of it", || files(&server, "compiled/acme", ".cwasm").len() == 1);
}

#[test]
fn records_hold_no_sources_of_kernels_and_a_damaged_report_is_made_again() {
    let data = tempfile::tempdir().unwrap();
    let options = Options { data: Some(data.path()), config: Some("spares = 0"), ..Options::default() };
    let server = Server::start_with(&options);
    server.deploy("mandelbrot");
    let kernels = server.get_json("/api/v1/functions/mandelbrot/kernels");
    let source = kernels["kernels"][0]["wgsl"].as_str().unwrap().to_owned();
    assert!(source.contains("@compute"));
    server.kill();
    for folder in ["db", "journal"] {
        for path in walk(&data.path().join(folder)) {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(8).any(|part| part == b"@compute"), "{}", path.display());
        }
    }
    let report = walk(&data.path().join("compiled"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|kind| kind == "report"))
        .unwrap();
    let mut bytes = std::fs::read(&report).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&report, &bytes).unwrap();
    let server = Server::start_with(&options);
    assert_eq!(server.get_json("/api/v1/functions/mandelbrot/kernels"), kernels, "it was built anew");
    std::fs::remove_file(&report).unwrap();
    assert_eq!(server.send("GET", "/f/dev/mandelbrot/?width=8&height=8", &[], b"").status, 200);
    assert_eq!(server.put(KEY, "mandelbrot", "again", "", "").status, 201);
    assert!(report.exists());
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] }).collect()
}
