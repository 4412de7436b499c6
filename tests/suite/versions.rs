//! Versions: traffic, tags, rollback, settings without an upload, and that no request is dropped during a switch.

use crate::support::{KEY, Options, Server, prebuilt, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn server() -> Server {
    Server::start_with(&Options { config: Some("spares = 0\n[retention]\nversions = 60"), ..Options::default() })
}

fn env(server: &Server, which: &str, headers: &[(&str, &str)]) -> String {
    server.send("GET", &format!("/f/dev/{which}/env?name=MODE"), headers, b"").text()
}

#[test]
fn requests_are_split_held_tagged_and_rolled_back() {
    let server = server();
    let put = |mode: &str, query: &str| server.put(KEY, "faulty", "f", &format!("[env]\nMODE = \"{mode}\"\n"), query);
    assert_eq!(put("one", "").json()["version"], 1);
    let tagged = put("two", "?no_traffic=true&tag=next");
    assert_eq!((tagged.status, tagged.json()["version"].clone()), (201, json!(2)), "{}", tagged.text());
    assert!(tagged.json()["url"].as_str().unwrap().ends_with("/f/dev/f@next/"));
    assert_eq!(env(&server, "f", &[]), "one");
    assert_eq!(env(&server, "f@next", &[]), "two");
    assert_eq!(env(&server, "f", &[("x-gannet-tag", "next")]), "two");
    assert_eq!(env(&server, "f@v1", &[]), "one");
    // A version without traffic can be reached only with the tenant's key, even if it was public before.
    let open = |public: bool| json!({ "http": { "public": public } });
    assert_eq!(server.put(KEY, "hello", "p", "[http]\npublic = true\n", "").status, 201);
    assert_eq!(server.send_bare("GET", "/f/dev/p@v1/", &[], b"").status, 200);
    assert_eq!(server.control(KEY, "PATCH", "functions/p", &open(false)).status, 201);
    assert_eq!(server.send_bare("GET", "/f/dev/p@v1/", &[], b"").status, 401);
    assert_eq!(server.send("GET", "/f/dev/p@v1/", &[], b"").status, 200);
    assert_eq!(server.send("GET", "/f/dev/f@none/env?name=MODE", &[], b"").status, 404);

    let split = json!({ "traffic": { "v1": 50, "v2": 50 }, "sticky": { "header": "x-user" } });
    assert_eq!(server.control(KEY, "PUT", "functions/f/traffic", &split).status, 200);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..60 {
        *seen.entry(env(&server, "f", &[])).or_default() += 1;
    }
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 5), "{seen:?}");
    for user in ["a", "b", "c", "d"] {
        let first = env(&server, "f", &[("x-user", user)]);
        assert!((0..10).all(|_| env(&server, "f", &[("x-user", user)]) == first), "{user} stays");
    }
    let wrong = server.control(KEY, "PUT", "functions/f/traffic", &json!({ "traffic": { "v9": 1 } }));
    wrong.is_problem(409, "conflict", "there is no version v9");

    let output = server.cli(&["traffic", "f", "v2=100"]);
    assert_eq!(text(&output.stdout), "f v2=100\n", "{}", text(&output.stderr));
    assert_eq!(env(&server, "f", &[]), "two");
    let output = server.cli(&["rollback", "f"]);
    assert_eq!(text(&output.stdout), "f v1=100\n", "{}", text(&output.stderr));
    assert_eq!(env(&server, "f", &[]), "one");
    let again = put("two", "");
    assert_eq!((again.status, again.json()["version"].clone()), (200, json!(2)), "the same bytes and settings again");
    assert_eq!(env(&server, "f", &[]), "two");
    let output = server.cli(&["tag", "f", "next"]);
    assert!(output.status.success());
    assert_eq!(server.send("GET", "/f/dev/f@next/env?name=MODE", &[], b"").status, 404);
}

#[test]
fn settings_make_a_new_version_of_the_same_bytes_without_an_upload() {
    let server = server();
    let first = server.put(KEY, "faulty", "f", "[env]\nMODE = \"one\"\n", "");
    let dry = server.control(KEY, "PATCH", "functions/f?dry_run=true", &json!({ "env": { "MODE": "two" } }));
    assert_eq!(
        (dry.status, dry.json()["version"].clone(), dry.json()["dry_run"].clone()),
        (200, json!(0), json!(true))
    );
    assert_eq!(env(&server, "f", &[]), "one");
    let output = server.cli(&["configure", "f", "env.MODE=two", "limits.cpu_ms=77"]);
    assert_eq!(text(&output.stdout), "f version 2\n", "{}", text(&output.stderr));
    assert_eq!(env(&server, "f", &[]), "two");
    let now = server.get_json("/api/v1/functions/f");
    assert_eq!((&now["digest"], &now["manifest"]["limits"]["cpu_ms"]), (&first.json()["digest"], &json!(77)));
    let bad = server.control(KEY, "PATCH", "functions/f", &json!({ "limits": { "cpu": 1 } }));
    bad.is_problem(400, "invalid", "unknown key `cpu`");

    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(crate::support::prebuilt("faulty"), folder.path().join("f.wasm")).unwrap();
    let manifest = "name = \"f\"\n[build]\nartifact = \"f.wasm\"\n[env]\nMODE = \"three\"\n";
    std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
    let path = folder.path().display().to_string();
    let output = server.cli(&["deploy", &path, "--dry-run"]);
    assert_eq!(text(&output.stdout), "f would get a new version\n", "{}", text(&output.stderr));
    let output = server.cli(&["deploy", &path, "--no-traffic", "--tag", "next"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!((env(&server, "f", &[]), env(&server, "f@next", &[])), ("two".into(), "three".into()));
    let versions = server.get_json("/api/v1/functions/f/versions");
    assert_eq!(versions["versions"][0]["tags"], json!(["next"]));
}

#[test]
fn nothing_is_dropped_across_fifty_deploys_under_load() {
    let server = server();
    assert_eq!(server.put(KEY, "faulty", "f", "[env]\nMODE = \"0\"\n", "").status, 201);
    env(&server, "f", &[]);
    let component = std::fs::read(prebuilt("faulty")).unwrap();
    let (stop, served, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (server, stop, served, failed) = (&server, &stop, &served, &failed);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Some requests are in progress when their version is replaced.
                    let path = if thread == 0 { "/f/dev/f/nap?ms=40" } else { "/f/dev/f/env?name=MODE" };
                    let answer = server.send("GET", path, &[], b"");
                    served.fetch_add(1, Ordering::Relaxed);
                    if answer.status != 200 || answer.body.is_err() {
                        eprintln!("{} {:?}", answer.status, answer.body.as_ref().map(|body| text(body)));
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for number in 1..=50u8 {
            // Every fifth deploy uploads other bytes. The others change settings of the same bytes.
            let answer = if number % 5 == 0 {
                // A custom section with the number is added. The code is the same.
                let other = [component.as_slice(), &[0, 3, 1, b'n', number]].concat();
                server.put_bytes(KEY, &other, "f", &format!("[env]\nMODE = \"{number}\"\n"), "")
            } else {
                let patch = json!({ "env": { "MODE": number.to_string() } });
                server.control(KEY, "PATCH", "functions/f", &patch)
            };
            assert_eq!(
                (answer.status, answer.json()["version"].clone()),
                (201, json!(number + 1)),
                "{}",
                answer.text()
            );
        }
        assert_eq!(env(&server, "f", &[]), "50");
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", served.load(Ordering::Relaxed));
    assert!(served.load(Ordering::Relaxed) > 50);
}

#[test]
fn a_dry_run_and_a_refused_deploy_leave_nothing_behind() {
    let server = server();
    let compiled = || std::fs::read_dir(server.data.join("compiled/dev")).map_or(0, Iterator::count);
    assert_eq!(server.put(KEY, "hello", "f", "", "?dry_run=true").status, 200);
    // A dry run refuses what a deploy would refuse.
    let missing = server.put(KEY, "faulty", "f", "[secrets]\nnames = [\"NONE\"]\n", "?dry_run=true");
    missing.is_problem(409, "conflict", "NONE");
    server.put(KEY, "hello", "f", "", "?dry_run=true&no_traffic=true").is_problem(409, "conflict", "first version");
    server.put(KEY, "faulty", "f", "[secrets]\nnames = [\"NONE\"]\n", "").is_problem(409, "conflict", "NONE");
    crate::support::wait_until("the compiled component is removed", || compiled() == 0);
    assert_eq!(server.put(KEY, "hello", "f", "", "").status, 201);
    assert_eq!(server.call("f", "/", b"").text(), "hello, world\n");
}

#[test]
fn old_versions_go_and_so_do_components_that_nobody_needs() {
    let server =
        Server::start_with(&Options { config: Some("spares = 0\n[retention]\nversions = 2"), ..Options::default() });
    assert_eq!(server.put(KEY, "hello", "f", "", "?tag=first").status, 201);
    for number in 0..4 {
        let answer = server.put(KEY, "faulty", "f", &format!("[env]\nN = \"{number}\"\n"), "");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let numbers = |server: &Server| -> Vec<u64> {
        let versions = server.get_json("/api/v1/functions/f/versions");
        versions["versions"].as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&server), [5, 4, 1], "the newest two, and the tagged one");
    let components = || std::fs::read_dir(server.data.join("components/dev")).unwrap().count();
    assert_eq!(components(), 2);
    assert_eq!(server.control(KEY, "DELETE", "functions/f/tags/first", &Value::Null).status, 200);
    assert_eq!(server.put(KEY, "faulty", "f", "[env]\nN = \"9\"\n", "").status, 201);
    crate::support::wait_until("the component of the first version is gone", || components() == 1);
    assert_eq!(numbers(&server), [6, 5]);
}
