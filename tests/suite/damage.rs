//! Damaged data folders: what is lost is told, nothing is written, and what can be restored is restored.

use crate::support::{KEY, Options, Server, binary, prebuilt, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn gannet(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Starts a server that must refuse the folder, and returns its error.
#[track_caller]
fn refused(data: &Path) -> String {
    let output = gannet(&["serve", "--listen", "127.0.0.1:0", "--allow-unconfined", "--data", path(data)]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    text(&output.stderr)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn server(data: &Path) -> Server {
    let config = Some("spares = 0");
    Server::start_with(&Options { data: Some(data), config, not_dev: true, ..Options::default() })
}

const TENANTS: usize = 40;

/// Makes a folder with tenants, a function, a secret and an asset.
fn folder() -> (TempDir, Vec<String>) {
    let data = TempDir::new().unwrap();
    let server = server(data.path());
    let keys: Vec<String> = (0..TENANTS).map(|number| server.tenant(&format!("t{number}"), &json!({}))).collect();
    let deployed = server.put_bytes(&keys[0], &std::fs::read(prebuilt("hello")).unwrap(), "hello", "", "");
    assert_eq!(deployed.status, 201, "{}", deployed.text());
    let headers = [("x-gannet-key", keys[0].as_str())];
    assert_eq!(server.send_bare("PUT", "/api/v1/secrets/TOKEN", &headers, b"hunter2").status, 201);
    assert_eq!(server.send_bare("PUT", "/api/v1/assets/words", &headers, b"some bytes").status, 201);
    server.kill();
    (data, keys)
}

/// Checks that the folder has all that [`folder`] made.
fn check_whole(data: &Path, keys: &[String]) {
    let checked = gannet(&["check", path(data)]);
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    let server = server(data);
    let listed = server.control(&server.operator(), "GET", "tenants?limit=1000", &Value::Null).json();
    assert_eq!(listed["tenants"].as_array().unwrap().len(), TENANTS);
    for key in keys {
        assert_eq!(server.control(key, "GET", "functions", &Value::Null).status, 200);
    }
    assert_eq!(server.call_as(&keys[0], "/f/t0/hello/", b"").text(), "hello, world\n");
    server.kill();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn flip(file: &Path, bit: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let bit = bit % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    std::fs::write(file, bytes).unwrap();
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

#[test]
fn one_flipped_bit_in_the_database_or_the_journal_is_told_and_repaired() {
    let (made, keys) = folder();
    let length = std::fs::metadata(made.path().join("db/db")).unwrap().len() as usize;
    let mut told = 0;
    for round in 0..20_usize {
        let data = TempDir::new().unwrap();
        copy(made.path(), data.path());
        // All over the file; most of a sled file is padding, in which a bit changes nothing.
        let (file, bit) = match round % 4 {
            0 => (only_file(&data.path().join("journal")), round * 7_777_777 + 13),
            _ => (data.path().join("db/db"), (length * 8 / 20) * round + 4_321),
        };
        flip(&file, bit);
        let checked = gannet(&["check", path(data.path())]);
        if checked.status.success() {
            // Nothing is lost.
            check_whole(data.path(), &keys);
            continue;
        }
        told += 1;
        assert!(!checked.stdout.is_empty());
        let why = refused(data.path());
        assert!(why.contains("is damaged and is not used"), "{why}");
        assert!(why.contains("gannet repair"), "{why}");
        let repaired = gannet(&["repair", path(data.path())]);
        assert!(repaired.status.success(), "{}", text(&repaired.stderr));
        assert!(text(&repaired.stderr).contains("set-aside"), "{}", text(&repaired.stderr));
        check_whole(data.path(), &keys);
    }
    assert!(told >= 5, "only {told} of 20 flipped bits hit anything");
}

#[test]
fn a_missing_part_of_the_data_folder_stops_the_start_and_is_made_again() {
    let (made, keys) = folder();
    for (part, why) in [
        ("db", "the database is missing or empty"),
        ("journal", "the journal is missing"),
        ("format", "the file `format` is missing"),
    ] {
        let data = TempDir::new().unwrap();
        copy(made.path(), data.path());
        let missing = data.path().join(part);
        if missing.is_dir() { std::fs::remove_dir_all(missing) } else { std::fs::remove_file(missing) }.unwrap();
        let error = refused(data.path());
        assert!(error.contains(why), "{part}: {error}");
        let repaired = gannet(&["repair", path(data.path())]);
        assert!(repaired.status.success(), "{part}: {}", text(&repaired.stderr));
        check_whole(data.path(), &keys);
    }
}

#[test]
fn a_first_start_that_was_killed_is_no_damage_and_an_interrupted_repair_can_be_repeated() {
    let half = TempDir::new().unwrap();
    server(half.path()).kill();
    // As it was before the format was written, and the ledger begun.
    std::fs::remove_file(half.path().join("format")).unwrap();
    std::fs::remove_file(only_file(&half.path().join("ledger"))).unwrap();
    server(half.path()).tenant("one", &json!({}));

    // A repair that ended after it had written the journal, or had moved the database away.
    let (made, keys) = folder();
    std::fs::remove_dir_all(made.path().join("db")).unwrap();
    std::fs::create_dir(made.path().join("db")).unwrap();
    std::fs::write(made.path().join("journal/next"), "half of a journal").unwrap();
    assert!(gannet(&["repair", path(made.path())]).status.success());
    check_whole(made.path(), &keys);

    // Without any record there is nothing to repair from, and nothing may be removed.
    for part in ["db", "journal"] {
        std::fs::remove_dir_all(made.path().join(part)).unwrap();
    }
    let repaired = gannet(&["repair", path(made.path())]);
    assert_eq!(repaired.status.code(), Some(3));
    assert!(text(&repaired.stderr).contains("put a backup"), "{}", text(&repaired.stderr));
    assert!(made.path().join("components/t0").exists());
}

#[test]
fn an_old_copy_of_the_database_is_not_taken_for_the_newest() {
    let data = TempDir::new().unwrap();
    let first = server(data.path());
    first.tenant("one", &json!({}));
    first.kill();
    let old = TempDir::new().unwrap();
    copy(&data.path().join("db"), old.path());
    let second = server(data.path());
    let key = second.tenant("two", &json!({}));
    second.kill();
    std::fs::remove_dir_all(data.path().join("db")).unwrap();
    copy(old.path(), &data.path().join("db"));
    let error = refused(data.path());
    assert!(error.contains("tenant two is missing in the database"), "{error}");
    assert!(gannet(&["repair", path(data.path())]).status.success());
    let third = server(data.path());
    assert_eq!(third.control(&key, "GET", "functions", &Value::Null).status, 200);
}

#[test]
fn another_key_of_the_secrets_stops_the_start() {
    let (data, keys) = folder();
    let file = data.path().join("secrets.key");
    let right = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(refused(data.path()).contains("1 of 1 stored secrets cannot be decrypted, such as TOKEN of t0"));
    assert!(!file.exists(), "no new key is made");
    std::fs::write(&file, format!("{}=\n", "A".repeat(43))).unwrap();
    assert!(refused(data.path()).contains("is not the one that they were encrypted with"));
    let checked = gannet(&["check", path(data.path())]);
    assert_eq!(text(&checked.stdout), "secret TOKEN of t0 was encrypted with another key\n");
    std::fs::write(&file, &right).unwrap();
    check_whole(data.path(), &keys);
    // Who has lost the key can give the secrets up.
    std::fs::remove_file(&file).unwrap();
    assert!(gannet(&["repair", path(data.path()), "--forget-secrets"]).status.success());
    let server = server(data.path());
    assert_eq!(server.control(&keys[0], "GET", "secrets", &Value::Null).json()["secrets"], json!([]));
}

#[test]
fn damage_in_the_ledger_costs_one_line_and_no_folder() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path()), config: Some("spares = 0"), ..Options::default() };
    let server = Server::start_with(&options);
    server.deploy("hello");
    let calls: Vec<_> = (0..9).map(|_| server.call("hello", "/", b"")).collect();
    for call in &calls {
        crate::support::wait_until("the request is billed", || server.receipt(call)["billed"] == true);
    }
    server.kill();
    let segment = data.path().join("ledger/0000000001.jsonl");
    let lines = std::fs::read_to_string(&segment).unwrap();
    let starts: Vec<usize> = lines.match_indices('\n').map(|(at, _)| at + 1).collect();
    // One bit in the middle of the third line, and the line feed of the last.
    flip(&segment, (starts[1] + 40) * 8 + 1);
    flip(&segment, (lines.len() - 1) * 8 + 1);
    let checked = gannet(&["check", path(data.path())]);
    assert_eq!(checked.status.code(), Some(3));
    assert!(text(&checked.stdout).contains("ledger: segment 1: "), "{}", text(&checked.stdout));
    let server = Server::start_with(&options);
    let left = calls.iter().filter(|call| {
        let path = format!("/api/v1/requests/{}", call.header("x-request-id"));
        server.send("GET", &path, &[], b"").status == 200
    });
    assert_eq!(left.count(), 8, "only the damaged line is lost");
    let more = server.call("hello", "/", b"");
    crate::support::wait_until("the ledger goes on", || server.receipt(&more)["billed"] == true);
    server.kill();

    // A repair sets the damaged bytes aside, and then nothing is wrong any more.
    assert!(gannet(&["repair", path(data.path())]).status.success());
    let checked = gannet(&["check", path(data.path())]);
    assert!(checked.status.success(), "{}", text(&checked.stdout));

    // If lines that were counted are gone, the start says so, and their sums stay.
    let server = Server::start_with(&options);
    let sum = || server.get_json("/api/v1/usage")["total"]["requests"].clone();
    let before = sum();
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start_with(&options);
    crate::support::wait_until("lines are settled", || {
        server.call("hello", "/", b"");
        let journal = only_file(&data.path().join("journal"));
        std::fs::read_to_string(journal).is_ok_and(|text| text.contains("\t+w\t"))
    });
    server.kill();
    std::fs::remove_file(&segment).unwrap();
    let error = refused(data.path());
    assert!(error.contains("segment 1 of the ledger has 0 bytes, but lines up to byte"), "{error}");
    let repaired = gannet(&["repair", path(data.path())]);
    assert!(text(&repaired.stderr).contains("the ledger goes on in a new segment"), "{}", text(&repaired.stderr));
    let server = Server::start_with(&options);
    let after = server.get_json("/api/v1/usage")["total"]["requests"].clone();
    assert!(after.as_u64() > before.as_u64(), "{before} {after}");
    assert_eq!(server.send("GET", "/f/dev/hello/", &[("x-gannet-key", KEY)], b"").status, 200);
}
