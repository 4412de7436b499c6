//! The confinement of child processes: a helper that is started like a worker tries what a worker must not be able to
//! do.

use crate::support::{Options, Server, binary, text, wait_until};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
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

/// Returns the files in a folder and in those below it.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn compiled_code_is_mapped_from_a_file_that_no_worker_can_change() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root may look at a worker's mappings");
    }
    let server = Server::start();
    server.deploy("hello");
    server.call("hello", "/", b"");
    let workers = server.children("__worker");
    let maps: String =
        workers.iter().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()).collect();
    let code: Vec<&str> = maps.lines().filter(|line| line.contains("/component-") && line.contains("r-xp")).collect();
    assert!(!code.is_empty(), "no worker has mapped its code:\n{maps}");
    for line in code {
        let inode: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
        let file = files(&server.data).into_iter().find(|path| path.metadata().is_ok_and(|data| data.ino() == inode));
        let data = file.expect("it is a file of the server").metadata().unwrap();
        assert_eq!((data.uid(), data.permissions().mode() & 0o777, data.nlink()), (0, 0o444, 1), "{line}");
    }
}
