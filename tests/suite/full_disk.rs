//! A disk that fills up: tenants are refused with 507, the operator and the bill go on, and nothing needs a restart.

use crate::support::jobs::{JobApi, refused};
use crate::support::{Options, Server, prebuilt, wait_until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A small file system in memory. It is unmounted when it is dropped.
struct Disk(TempDir);

impl Disk {
    fn new(mib: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.unwrap().success(), "tests run as root, and may mount");
        Self(folder)
    }

    fn free_mib(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.0.path()).unwrap();
        (disk.f_bavail * disk.f_frsize) >> 20
    }

    /// Takes the last byte.
    fn fill_up(&self) -> Vec<PathBuf> {
        let rest = self.0.path().join("rest");
        // What does not fit is not written.
        let _ = std::fs::write(&rest, vec![1; 16 << 20]);
        assert!(self.free_mib() < 1);
        vec![self.0.path().join("filler"), rest]
    }

    /// Leaves only so much space.
    fn fill(&self, left_mib: u64) -> PathBuf {
        let filler = self.0.path().join("filler");
        let _ = std::fs::remove_file(&filler);
        std::fs::write(&filler, vec![1; ((self.free_mib() - left_mib) << 20) as usize]).unwrap();
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn start(data: &Path) -> Server {
    let config = "spares = 0\ndisk_reserve_mib = 100";
    Server::start_with(&Options { data: Some(data), config: Some(config), not_dev: true, ..Options::default() })
}

#[test]
fn a_full_disk_refuses_tenants_and_not_the_operator_and_recovers_by_itself() {
    let disk = Disk::new(300);
    let data = disk.0.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let server = start(&data);
    let operator = server.operator();
    let (key, other) = (server.tenant("acme", &json!({})), server.tenant("zoo", &json!({})));
    let hello = std::fs::read(prebuilt("hello")).unwrap();
    assert_eq!(server.put_bytes(&key, &hello, "hello", "", "").status, 201);
    let begin = |name: &str, size: u64| {
        let range = format!("bytes 0-0/{size}");
        let headers = [("x-gannet-key", key.as_str()), ("content-range", range.as_str())];
        server.send_bare("PUT", &format!("/api/v1/assets/{name}"), &headers, b"a")
    };
    let is_full =
        |answer: crate::support::Response| answer.is_problem(507, "storage_full", "the server's disk is full");

    // The space of an upload is taken when it is announced, not when its bytes come.
    let before = disk.free_mib();
    assert_eq!(begin("one", 80 << 20).status, 202);
    assert!(disk.free_mib() <= before - 80, "{} {before}", disk.free_mib());
    is_full(begin("two", 150 << 20));
    assert_eq!(server.control(&key, "DELETE", "assets/one", &Value::Null).status, 200);
    wait_until("its space is free again", || disk.free_mib() >= before - 2);

    // Below the reserve, tenants change nothing, but can delete; their functions and the operator go on.
    disk.fill(60);
    is_full(begin("one", 1 << 20));
    is_full(server.put_bytes(&key, &hello, "more", "", ""));
    is_full(server.send_bare("PUT", "/api/v1/secrets/A", &[("x-gannet-key", &key)], b"value"));
    assert_eq!(server.call_as(&key, "/f/acme/hello/", b"").status, 200);
    assert_eq!(server.send_bare("GET", "/readyz", &[], b"").text(), "ready\n");
    assert_eq!(server.control(&operator, "POST", "tenants/zoo/suspend", &Value::Null).status, 200);
    assert_eq!(server.control(&other, "GET", "functions", &Value::Null).status, 403);

    // Below a quarter of it, the bill has no room, so no request is admitted.
    let filler = disk.fill(20);
    wait_until("it is told", || server.send_bare("GET", "/readyz", &[], b"").status == 503);
    assert!(server.send_bare("GET", "/readyz", &[], b"").text().contains("the disk is nearly full"));
    server.call_as(&key, "/f/acme/hello/", b"").is_problem(503, "ledger_unavailable", "the disk is nearly full");
    assert_eq!(server.control(&operator, "DELETE", "tenants/zoo", &Value::Null).status, 200);
    assert_eq!(server.control(&key, "DELETE", "functions/hello", &Value::Null).status, 200);

    // Nothing is written where sled could fail half-way.
    disk.fill(5);
    is_full(server.control(&operator, "POST", "tenants/acme/suspend", &Value::Null));
    is_full(server.control(&operator, "POST", "tenants/acme/suspend", &Value::Null));

    // With room it goes on, without a restart, and a restart finds all of it.
    std::fs::remove_file(&filler).unwrap();
    wait_until("it is ready", || server.send_bare("GET", "/readyz", &[], b"").status == 200);
    assert_eq!(server.put_bytes(&key, &hello, "again", "", "").status, 201);
    assert_eq!(server.call_as(&key, "/f/acme/again/", b"").text(), "hello, world\n");
    server.kill();
    let server = start(&data);
    assert_eq!(server.call_as(&key, "/f/acme/again/", b"").text(), "hello, world\n");
    assert_eq!(server.call_as(&key, "/f/acme/hello/", b"").status, 404);
    drop(server);
}

#[test]
fn a_full_disk_accepts_no_job_and_holds_a_result_until_it_has_room() {
    let disk = Disk::new(300);
    let data = disk.0.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let server = start(&data);
    let key = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&key, "task", "task", "", "").status, 201);
    let ask = |method: &str, path: &str, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        server.send_bare(method, &format!("/v2/task/{path}"), &[("x-gannet-key", key.as_str())], body.as_bytes())
    };
    let status = |id: &Value| ask("GET", &format!("status/{}", id.as_str().unwrap()), &Value::Null).json();

    // A result of 36 KB that comes when the disk is full.
    let ended = server.metric("requests_total");
    let accepted = ask("POST", "run", &json!({ "input": { "stream": 3_000, "every_ms": 1 } }));
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    let id = accepted.json()["id"].clone();
    wait_until("it runs", || status(&id)["status"] == "IN_PROGRESS");
    disk.fill(5);
    let fillers = disk.fill_up();
    let refused = ask("POST", "run", &json!({ "input": { "say": 1 } }));
    assert_eq!((refused.status, refused.header("x-gannet-error")), (507, "storage_full"), "{}", refused.text());
    wait_until("the attempt has ended", || server.metric("requests_total") > ended);
    assert_eq!(status(&id)["status"], "IN_PROGRESS", "its result cannot be stored");
    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    wait_until("the result is stored", || status(&id)["status"] == "COMPLETED");
    assert_eq!(status(&id)["output"].as_array().unwrap().len(), 3_000);
    let jobs = ask("GET", "jobs", &Value::Null).json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1, "nothing of the refused one was kept: {jobs}");
    // It is on disk, and so is everything else.
    server.kill();
    let server = start(&data);
    let again = server.send_bare(
        "GET",
        &format!("/v2/task/status/{}", id.as_str().unwrap()),
        &[("x-gannet-key", key.as_str())],
        b"",
    );
    assert_eq!(again.json()["status"], "COMPLETED");
    drop(server);
}

#[test]
fn what_was_accepted_before_the_disk_was_full_is_known_when_it_is_sent_again() {
    let disk = Disk::new(300);
    let data = disk.0.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let server = start(&data);
    let key = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&key, "task", "task", "", "").status, 201);
    let jobs = JobApi { server: &server, key: &key, function: "task" };
    jobs.get("POST", "pause", &Value::Null);
    let hook = jobs.get("POST", "hooks", &json!({ "name": "a" }))["url"].as_str().unwrap().to_owned();
    let post = |id: &str| {
        let path = hook.strip_prefix(&server.url).unwrap();
        server.send_bare("POST", path, &[("webhook-id", id)], b"{}")
    };
    let once = [("idempotency-key", "once")];
    let run = |say: u32| {
        let body = json!({ "input": { "say": say } }).to_string();
        jobs.send("POST", "run", &once, body.as_bytes())
    };
    let batch = || jobs.send("POST", "batches", &once, br#"{"inputs":[1,2]}"#);
    let (job, event, all) =
        (run(1).json()["id"].clone(), post("m1").json()["id"].clone(), batch().json()["id"].clone());
    assert!(job.is_string() && event.is_string() && all.is_string(), "{job} {event} {all}");
    disk.fill(5);
    disk.fill_up();
    refused(&jobs.ask("POST", "run", &json!({ "input": 1 })), 507, "storage_full", "");
    refused(&jobs.ask("POST", "batches", &json!({ "inputs": [1] })), 507, "storage_full", "");
    refused(&post("m2"), 507, "storage_full", "");
    for (what, answer, status, id) in
        [("job", run(1), 200, &job), ("event", post("m1"), 202, &event), ("batch", batch(), 200, &all)]
    {
        assert_eq!((answer.status, &answer.json()["id"]), (status, id), "{what}: {}", answer.text());
    }
    refused(&run(2), 409, "idempotency_key_reused", "");
    drop(server);
}

#[test]
fn a_full_disk_takes_no_key_values_and_keeps_nothing_of_them_but_lets_them_be_deleted() {
    let disk = Disk::new(300);
    let data = disk.0.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let server = start(&data);
    let key = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&key, "faulty", "f", "", "").status, 201);
    let ask = |query: &str, body: &[u8]| server.call_as(&key, &format!("/f/acme/f/kv?{query}"), body);
    for name in ["a", "b"] {
        assert_eq!(ask(&format!("op=set&key={name}"), b"before").status, 200);
    }
    let filler = disk.fill(60);
    for query in ["op=set&key=c", "op=set&key=a", "op=add&key=n&by=1", "op=fill&key=x&count=2&bytes=1"] {
        let refused = ask(query, b"after");
        assert!(refused.status == 500 && refused.text().contains("the disk is full"), "{}", refused.text());
    }
    assert_eq!(ask("op=delete&key=b", b"").status, 200);
    assert_eq!(ask("op=keys", b"").text(), "a");
    assert_eq!(ask("op=get&key=a", b"").text(), "before");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(ask("op=set&key=c", b"after").status, 200);
    assert_eq!(ask("op=keys", b"").text(), "a\nc");
    drop(server);
}
