//! The confinement of child processes: a helper that is started like a worker tries what a worker must not be able to
//! do.

use crate::support::{Options, Server, binary, text, wait_until};
use std::process::Command;

#[test]
fn every_attempt_of_a_confined_child_is_refused() {
    let output = Command::new(binary()).args(["doctor", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["confinement"]["landlock"], &report["confinement"]["seccomp"]), (&true.into(), &true.into()));
    let attempts = report["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 10);
    for attempt in attempts {
        assert_eq!(attempt["refused"], true, "{attempt}");
    }
    assert!(!report["gpus"].as_array().unwrap().is_empty());
}

#[test]
fn a_server_without_development_mode_serves_because_all_layers_hold() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    assert_eq!(server.send_bare("GET", "/healthz", &[], b"").text(), "ok\n");
}

#[test]
fn a_worker_has_an_empty_environment_and_its_own_user() {
    let server = Server::shared();
    server.call("hello", "/", b"");
    // A spare that is still opening its device has no seccomp filter yet. It has no guest either.
    wait_until("a spare is there", || server.metric("spares") == 1);
    let workers = server.children("__worker");
    assert!(!workers.is_empty());
    let as_root = rustix::process::geteuid().is_root();
    let mut users = Vec::new();
    for pid in workers {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        users.push(line("Uid:").split_whitespace().next().unwrap_or_default().to_owned());
        assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), ("1".into(), "2".into()));
        if as_root {
            let environment = text(&std::fs::read(format!("/proc/{pid}/environ")).unwrap());
            for variable in environment.split('\0').filter(|variable| !variable.is_empty()) {
                let allowed = ["GANNET_CHILD_", "HOME=", "XDG_", "MESA_", "TMPDIR=", "__GL_", "GANNET_LOG="];
                assert!(allowed.iter().any(|prefix| variable.starts_with(prefix)), "{variable}");
            }
        }
    }
    if as_root {
        assert!(!users.contains(&"0".to_owned()), "{users:?}");
        let count = users.len();
        users.sort();
        users.dedup();
        assert_eq!(users.len(), count, "each child has its own user");
    }
}
