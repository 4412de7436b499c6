//! The memory with which instances begin: what `init` left.

use crate::support::{KEY, Options, Response, Server, wait_until};
use serde_json::json;

fn server() -> Server {
    Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() })
}

fn deploy(server: &Server, manifest: &str) -> Response {
    server.put(KEY, "faulty", "faulty", &format!("[build]\nsnapshot = true\n{manifest}"), "")
}

#[track_caller]
fn check_found(server: &Server, expected: &str) {
    // Each request runs in a fresh instance.
    for _ in 0..3 {
        assert_eq!(server.call("faulty", "/found", b"").text(), expected);
    }
}

fn compiled(server: &Server) -> usize {
    let files = std::fs::read_dir(server.data.join("compiled/dev")).into_iter().flatten().flatten();
    files.filter(|file| file.path().extension().is_some_and(|kind| kind == "cwasm")).count()
}

#[test]
fn instances_begin_with_the_memory_that_init_left() {
    let server = server();
    let put = |text: &str| server.send("PUT", "/api/v1/assets/t", &[], text.as_bytes()).status;
    assert_eq!(put("first table"), 201);
    let set = server.send("PUT", "/api/v1/secrets/TOKEN", &[], b"very-secret");
    assert!(set.status < 300, "{}", set.text());
    let manifest = "[env]\nINIT = \"one\"\n[assets]\ntable = \"t\"\n[secrets]\nnames = [\"TOKEN\"]\n";
    let first = deploy(&server, manifest);
    assert_eq!((first.status, first.json()["version"].clone()), (201, json!(1)), "{}", first.text());
    check_found(&server, "one no secret first table 1 16");
    assert_eq!(server.call("faulty", "/env?name=TOKEN", b"").text(), "very-secret", "requests get the secret");
    assert_eq!(deploy(&server, manifest).status, 200, "an identical deploy makes no new version");

    // The environment and assets that `init` sees belong to the version, and so does its snapshot.
    let other = server.control(KEY, "PATCH", "functions/faulty", &json!({ "env": { "INIT": "two" } }));
    assert_eq!(other.status, 201, "{}", other.text());
    check_found(&server, "two no secret first table 1 16");
    assert_eq!(put("second table"), 200);
    assert_eq!(deploy(&server, manifest).json()["version"], 3);
    check_found(&server, "one no secret second table 1 16");
    assert!(server.cli(&["rollback", "faulty", "v1"]).status.success());
    check_found(&server, "one no secret first table 1 16");
    assert_eq!(compiled(&server), 3);
    let failing = server.control(KEY, "PATCH", "functions/faulty", &json!({ "env": { "INIT": "fail" } }));
    failing.is_problem(422, "init_failed", "init: failed as asked");
    assert!(server.cli(&["delete", "faulty"]).status.success());
    wait_until("compiled components without a version are removed", || compiled(&server) == 0);
}

#[test]
fn an_init_that_fails_is_a_deploy_error_that_says_why() {
    let server = server();
    for (asked, part) in [
        ("fail", "init: failed as asked"),
        ("trap", "trapped as asked"),
        ("print", "init left a handle open"),
        ("memory", "limits.memory_mib = 64"),
        ("gpu", "there is no gpu while init runs"),
    ] {
        let refused = deploy(&server, &format!("[env]\nINIT = {asked:?}\n[limits]\nmemory_mib = 64\n"));
        refused.is_problem(422, "init_failed", part);
    }
    let none = server.put(KEY, "hello", "hello", "[build]\nsnapshot = true\n", "");
    none.is_problem(422, "init_failed", "it exports no function init");
    wait_until("nothing is left behind", || compiled(&server) == 0);
    // Without `snapshot = true`, `init` does not run.
    assert_eq!(server.put(KEY, "faulty", "faulty", "[env]\nINIT = \"fail\"\n", "").status, 201);
    check_found(&server, " 1 16");
}
