//! Clients that leave in the middle of a change: it runs to its end, or leaves nothing behind.

use crate::support::{KEY, Options, Server, prebuilt, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use tempfile::TempDir;

fn entries(server: &Server, folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(server.data.join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Returns the entries of the audit log that have no outcome.
fn unfinished(server: &Server, key: &str) -> usize {
    let log = server.control(key, "GET", "audit?limit=1000", &Value::Null).json();
    log["entries"].as_array().unwrap().iter().filter(|entry| entry["status"].is_null()).count()
}

#[test]
fn a_change_whose_client_leaves_runs_to_its_end_or_leaves_nothing() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    let component = std::fs::read(prebuilt("hello")).unwrap();
    let head = |name: &str| {
        format!(
            "PUT /api/v1/functions/{name} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n\
             content-type: application/wasm\r\ncontent-length: {}\r\n\r\n",
            component.len()
        )
    };
    // The whole request, and then nobody waits for the answer.
    let whole = [head("whole").as_bytes(), &component].concat();
    server.send_and_close(&whole);
    let names = || -> Vec<String> {
        let listed = server.get_json("/api/v1/functions");
        listed["functions"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect()
    };
    wait_until("it is deployed", || names() == ["whole"]);
    assert_eq!(server.call("whole", "/", b"").text(), "hello, world\n");
    // Cut anywhere: in the head, in the body, just before its end.
    let cut = [head("cut").as_bytes(), &component].concat();
    for part in 1..=12 {
        server.send_and_close(&cut[..(cut.len() - 1) * part / 12]);
    }
    wait_until("nothing is left of them", || entries(&server, "incoming").is_empty() && unfinished(&server, KEY) == 0);
    assert_eq!(names(), ["whole"]);
    assert_eq!(entries(&server, "components/dev").len(), 1);
    assert_eq!(entries(&server, "compiled/dev").len(), 2, "code and report");
}

#[test]
fn a_start_removes_files_that_nothing_refers_to_and_keeps_those_of_unknown_tenants() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path()), config: Some("spares = 0"), ..Options::default() };
    let server = Server::start_with(&options);
    server.deploy("hello");
    server.kill();
    let digest = "0".repeat(64);
    for (folder, name) in [("components", "wasm"), ("compiled", "cwasm")] {
        std::fs::write(data.path().join(folder).join("dev").join(format!("{digest}.{name}")), b"left").unwrap();
    }
    std::fs::create_dir_all(data.path().join("assets/dev")).unwrap();
    std::fs::write(data.path().join("assets/dev").join(&digest), b"left").unwrap();
    std::fs::create_dir_all(data.path().join("components/lost")).unwrap();
    let server = Server::start_with(&options);
    wait_until("they are removed", || {
        let left = |folder: &str| entries(&server, folder).iter().any(|name| name.starts_with(&digest));
        !left("components/dev") && !left("compiled/dev") && !left("assets/dev")
    });
    assert!(data.path().join("components/lost").exists(), "its record may have been lost");
    assert_eq!(server.call("hello", "/", b"").text(), "hello, world\n");
}

#[test]
fn an_upload_whose_bytes_had_all_arrived_is_finished_by_the_next_start() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path()), config: Some("spares = 0"), ..Options::default() };
    let server = Server::start_with(&options);
    let range = |server: &Server, range: &str, body: &[u8]| {
        let headers = [("x-gannet-key", KEY), ("content-range", range)];
        server.send_bare("PUT", "/api/v1/assets/words", &headers, body)
    };
    assert_eq!(range(&server, "bytes 0-3/8", b"some").status, 202);
    server.kill();
    // What a crash leaves between the last acknowledged byte and the name.
    let folder = data.path().join("uploads/dev");
    let upload = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&upload, b"some more").unwrap();
    std::fs::rename(&upload, folder.join("words~9~9~-")).unwrap();
    let server = Server::start_with(&options);
    wait_until("it has its name", || {
        server.send("GET", "/api/v1/assets/words", &[], b"").status == 200
            && server.get_json("/api/v1/assets/words")["size"] == 9
    });
    wait_until("the upload is gone", || entries(&server, "uploads/dev").is_empty());
    // A client that had heard nothing asks for the end.
    let finished = server.send_bare(
        "PUT",
        "/api/v1/assets/words",
        &[("x-gannet-key", KEY), ("content-range", "bytes */9"), ("content-length", "0")],
        b"",
    );
    assert_eq!(finished.status, 404, "there is no upload any more: {}", finished.text());
}

#[test]
fn the_access_log_has_a_line_for_a_client_that_left_before_the_answer() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("access.log");
    let config = format!("spares = 0\n[logs]\naccess = {:?}", log.display().to_string());
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    server.deploy("faulty");
    let request = format!("GET /f/dev/faulty/sleep HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n\r\n");
    server.send_and_close(request.as_bytes());
    wait_until("its line is there", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.any(|line| line["status"] == 0 && line["code"] == "client_closed" && line["function"] == "faulty")
    });
}
