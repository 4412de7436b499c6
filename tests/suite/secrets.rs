//! Secrets reach the functions that name them, and nothing else.

use crate::support::{KEY, Options, Server, binary, prebuilt, text};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const VALUE: &str = "hunter2-and-more";

fn set(server: &Server, name: &str, value: &str) {
    let mut child = Command::new(binary())
        .args(["secret", "set", name])
        .env("GANNET_SERVER", &server.url)
        .env("GANNET_KEY", KEY)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{value}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_secret_reaches_the_function_that_names_it_and_nothing_else() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path()), config: Some("spares = 0"), ..Options::default() };
    let server = Server::start_with(&options);
    let manifest = "[env]\nMODE = \"fast\"\n[secrets]\nnames = [\"TOKEN\"]\n";
    let early = server.put(KEY, "faulty", "with", manifest, "");
    early.is_problem(409, "conflict", "`gannet secret set TOKEN` sets it");
    set(&server, "TOKEN", VALUE);
    assert_eq!(server.put(KEY, "faulty", "with", manifest, "").status, 201);
    assert_eq!(server.put(KEY, "faulty", "without", "", "").status, 201);
    let ask = |server: &Server, path: &str| server.call(path, "", b"");
    assert_eq!(ask(&server, "with/env?name=TOKEN").text(), VALUE);
    assert_eq!(ask(&server, "with/config?name=TOKEN").text(), VALUE);
    assert_eq!(ask(&server, "with/config?name=MODE").text(), "fast");
    assert_eq!(ask(&server, "without/env?name=TOKEN").text(), "-");
    assert_eq!(ask(&server, "without/config?name=TOKEN").text(), "-");

    let id = ask(&server, "with/env?name=TOKEN").header("x-request-id").to_owned();
    crate::support::wait_until("the log line is there", || {
        let lines = server.get_json(&format!("/api/v1/functions/with/logs?request={id}"));
        let lines = lines["lines"].as_array().unwrap().clone();
        assert!(lines.iter().all(|line| !line["text"].as_str().unwrap().contains(VALUE)), "{lines:?}");
        lines.iter().any(|line| line["text"] == "TOKEN is ***")
    });
    for path in ["secrets", "functions/with", "functions/with/versions", "audit", &format!("requests/{id}")] {
        let told = server.send("GET", &format!("/api/v1/{path}"), &[], b"").text();
        assert!(!told.contains(VALUE), "{path}: {told}");
    }
    let listed = server.get_json("/api/v1/secrets");
    assert_eq!(
        (&listed["secrets"][0]["name"], &listed["secrets"][0]["functions"]),
        (&json!("TOKEN"), &json!(["with"]))
    );
    let found =
        Command::new("grep").args(["-r", "--binary-files=text", "-l", VALUE]).arg(data.path()).output().unwrap();
    assert!(found.stdout.is_empty(), "encrypted on disk: {}", text(&found.stdout));

    set(&server, "TOKEN", "another-value");
    assert_eq!(ask(&server, "with/env?name=TOKEN").text(), "another-value", "fresh instances get the new value");
    let versions = server.get_json("/api/v1/functions/with/versions");
    assert_eq!(versions["versions"][0]["cause"], "the secret TOKEN was set");
    server.control(KEY, "DELETE", "secrets/TOKEN", &Value::Null).is_problem(
        409,
        "conflict",
        "with names the secret TOKEN",
    );
    server.kill();

    let server = Server::start_with(&options);
    assert_eq!(ask(&server, "with/env?name=TOKEN").text(), "another-value", "after a restart too");
    assert_eq!(server.send("DELETE", "/api/v1/functions/with", &[], b"").status, 200);
    assert!(server.cli(&["secret", "delete", "TOKEN"]).status.success());
    server.kill();
    std::fs::remove_file(data.path().join("secrets.key")).unwrap();
    let server = Server::start_with(&options);
    assert!(prebuilt("hello").exists() && server.get_json("/api/v1/secrets")["secrets"] == json!([]));
}
