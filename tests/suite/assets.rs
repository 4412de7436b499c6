//! Assets: uploaded whole or in ranges, bound on the GPU and read on the CPU, pinned by versions.

use crate::support::{KEY, Options, Response, Server, text, wait_until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

fn server() -> Server {
    Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() })
}

/// Pseudo-random bytes, different for each seed.
fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.as_chunks::<4>().0.iter().fold(0, |sum, value| sum.wrapping_add(u32::from_le_bytes(*value)))
}

fn put(server: &Server, name: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    server.send("PUT", &format!("/api/v1/assets/{name}"), headers, body)
}

fn range(server: &Server, name: &str, whole: &[u8], from: usize, to: usize) -> Response {
    let range = format!("bytes {from}-{}/{}", to - 1, whole.len());
    let path = format!("{name}?digest={}", hex(whole));
    put(server, &path, &[("content-range", &range)], &whole[from..to])
}

/// Checks that `lookup`, called with `query`, computes the sum of `part` on the GPU and on the CPU. `whole` is its
/// table.
#[track_caller]
fn check_sum(server: &Server, query: &str, whole: &[u8], part: &[u8]) {
    let answer = server.call("lookup", query, b"");
    assert_eq!(answer.text(), format!("{} {1} {1}\n", whole.len(), sum(part)), "{query}");
}

fn stored(server: &Server) -> usize {
    let folder = std::fs::read_dir(server.data.join("assets/dev"));
    folder.map_or(0, |folder| folder.count())
}

#[test]
fn a_version_keeps_the_assets_it_was_deployed_with() {
    let server = server();
    let deploy = || server.put(KEY, "lookup", "lookup", "[assets]\ntable = \"t\"\n", "");
    deploy().is_problem(
        409,
        "conflict",
        "assets.table is \"t\", which does not exist; `gannet asset put t FILE` uploads it",
    );

    let (one, two) = (bytes(1, 3 << 20), bytes(2, 5 << 20));
    let file = server.data.join("one.bin");
    std::fs::write(&file, &one).unwrap();
    let output = server.cli(&["asset", "put", "t", &file.display().to_string()]);
    assert_eq!(text(&output.stdout), format!("{}\n", hex(&one)), "{}", text(&output.stderr));
    assert_eq!(deploy().json()["version"], 1);
    check_sum(&server, "/", &one, &one);
    check_sum(&server, "/?from=64&bytes=4096", &one, &one[64..64 + 4096]);
    // Ranges that are not aligned.
    check_sum(&server, "/?from=4&bytes=4096", &one, &one[4..4 + 4096]);
    check_sum(&server, "/?from=1001&bytes=2000", &one, &one[1001..3001]);
    let end = one.len() - 4;
    check_sum(&server, &format!("/?from={end}&bytes=4"), &one, &one[end..]);
    let beyond = server.call("lookup", &format!("/?from={end}&bytes=8"), b"");
    assert!(
        beyond.text().contains("8 bytes from offset 3145724 pass the end of an asset of 3145728"),
        "{}",
        beyond.text()
    );
    let none = server.call("lookup", "/?bytes=0", b"");
    assert!(none.text().contains("no bytes from offset 0"), "{}", none.text());

    // Other bytes under the same name do not change a deployed version.
    assert_eq!(put(&server, "t", &[], &two).status, 200);
    check_sum(&server, "/", &one, &one);
    assert_eq!(deploy().json()["version"], 2, "the same component with another asset is another version");
    check_sum(&server, "/", &two, &two);
    assert!(server.cli(&["rollback", "lookup"]).status.success());
    check_sum(&server, "/", &one, &one);

    // Deleting the name does not change it either.
    assert!(server.cli(&["asset", "delete", "t"]).status.success());
    check_sum(&server, "/", &one, &one);
    deploy().is_problem(409, "conflict", "does not exist");
    assert_eq!(stored(&server), 2);
    assert!(server.cli(&["delete", "lookup"]).status.success());
    wait_until("files that no name and no version refers to are removed", || stored(&server) == 0);
}

#[test]
fn a_request_keeps_the_asset_that_it_began_with() {
    let server = server();
    let (one, two) = (bytes(1, 2 << 20), bytes(2, 2 << 20));
    assert_eq!(put(&server, "table", &[], &one).status, 201);
    server.deploy("lookup");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.call("lookup", "/?pause_ms=1500", b"").text());
        wait_until("the request has begun", || server.get_json("/api/v1/limits")["used"]["concurrency"] == 1);
        assert_eq!(put(&server, "table", &[], &two).status, 200);
        server.deploy("lookup");
        check_sum(&server, "/", &two, &two);
        assert_eq!(slow.join().unwrap(), format!("{} {1} {1}\n", one.len(), sum(&one)));
    });
}

#[test]
fn an_upload_goes_on_after_a_crash_where_it_was_acknowledged() {
    let folder = tempfile::TempDir::new().unwrap();
    let start = |path: &Path| {
        Server::start_with(&Options { data: Some(path), config: Some("spares = 0"), ..Options::default() })
    };
    let whole = bytes(3, 1 << 20);
    let server = start(folder.path());
    let first = range(&server, "t", &whole, 0, 400_000);
    assert_eq!((first.status, first.json()["upload"]["received"].clone()), (202, json!(400_000)), "{}", first.text());
    assert_eq!(first.json()["digest"], Value::Null);
    range(&server, "t", &whole, 500_000, 600_000).is_problem(
        409,
        "conflict",
        "has 400000 bytes; the range begins at 500000",
    );
    server.kill();

    let server = start(folder.path());
    let known = server.get_json("/api/v1/assets/t");
    assert_eq!(known["upload"], json!({ "size": whole.len(), "received": 400_000, "digest": hex(&whole) }));
    // The command continues from there.
    let file = folder.path().join("whole.bin");
    std::fs::write(&file, &whole).unwrap();
    let output = server.cli(&["asset", "put", "t", &file.display().to_string(), "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!((answer["digest"].clone(), answer["size"].clone()), (json!(hex(&whole)), json!(whole.len())));
    server.deploy_with_asset("t");
    check_sum(&server, "/", &whole, &whole);

    // If the client disconnects in the middle of a range, the bytes that arrived are kept.
    let (head, rest) = whole.split_at(300_000);
    let request = format!(
        "PUT /api/v1/assets/u HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\ncontent-range: bytes 0-{}/{}\r\ncontent-length: {}\r\n\r\n",
        whole.len() - 1,
        whole.len(),
        whole.len()
    );
    server.send_and_close(&[request.as_bytes(), head].concat());
    wait_until("the bytes that arrived are reported", || {
        let answer = server.send("GET", "/api/v1/assets/u", &[], b"");
        answer.status == 200 && answer.json()["upload"]["received"].as_u64().is_some_and(|n| n > 0 && n <= 300_000)
    });
    let received = server.get_json("/api/v1/assets/u")["upload"]["received"].as_u64().unwrap() as usize;
    assert!(received <= head.len() && !rest.is_empty());
    let range = format!("bytes {received}-{}/{}", whole.len() - 1, whole.len());
    let mut last = put(&server, "u", &[("content-range", &range)], &whole[received..]);
    // The request that broke off may still be syncing bytes that were already reported as received.
    wait_until("the upload is free", || {
        if last.status == 409 {
            last = put(&server, "u", &[("content-range", &range)], &whole[received..]);
        }
        last.status != 409
    });
    assert_eq!((last.status, last.json()["digest"].clone()), (201, json!(hex(&whole))), "{}", last.text());
}

#[test]
fn assets_are_held_to_limits_and_counted_once() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), not_dev: true, ..Options::default() });
    let key = server.tenant("acme", &json!({ "assets_mib": 3 }));
    let put = |name: &str, headers: &[(&str, &str)], body: &[u8]| {
        let mut all = vec![("x-gannet-key", key.as_str())];
        all.extend(headers);
        server.send_bare("PUT", &format!("/api/v1/assets/{name}"), &all, body)
    };
    let huge = "bytes 0-1023/10737418240";
    put("huge", &[("content-range", huge)], &[0; 1024]).is_problem(429, "tenant_limit", "assets_mib = 3; in use: 0");
    let one = bytes(1, 2 << 20);
    assert_eq!(put("a", &[], &one).status, 201);
    let known = put(&format!("b?digest={}", hex(&one)), &[], b"");
    assert_eq!(known.status, 201, "the same bytes need not be uploaded again: {}", known.text());
    put(&format!("c?digest={}", "0".repeat(64)), &[], b"").is_problem(404, "not_found", "no resource of that name");
    let used = server.control(&key, "GET", "limits", &Value::Null).json()["used"]["assets_mib"].clone();
    assert_eq!(used, 2, "counted once");
    put("c", &[], &bytes(2, 2 << 20)).is_problem(429, "tenant_limit", "assets_mib = 3; in use: 2");
    // An upload in progress counts with its full size.
    assert_eq!(put("c", &[("content-range", "bytes 0-9/1048576")], &[0; 10]).status, 202);
    put("d", &[("content-range", "bytes 0-9/1048576")], &[0; 10]).is_problem(429, "tenant_limit", "in use: 3");
    assert_eq!(server.control(&key, "DELETE", "assets/c", &Value::Null).status, 200, "an upload can be cancelled");
    let wrong = put(&format!("a?digest={}", "1".repeat(64)), &[], &one[..100]);
    wrong.is_problem(409, "conflict", "not the one that was announced");
    for (range, body) in [("bytes 5-4/10", 1), ("bytes 0-9/*", 1), ("bytes 0-9/10", 11), ("bytes 0-99/10", 100)] {
        put("e", &[("content-range", range)], &vec![0; body]).is_problem(400, "invalid", "content-range");
    }
    put("e", &[], b"").is_problem(400, "invalid", "neither a content-length");
    put("A%20", &[], b"x").is_problem(400, "invalid", "asset name");

    // Another tenant neither sees the assets nor gets them by their digest.
    let other = server.tenant("zoo", &json!({}));
    let known =
        server.send_bare("PUT", &format!("/api/v1/assets/a?digest={}", hex(&one)), &[("x-gannet-key", &other)], b"");
    known.is_problem(404, "not_found", "no resource of that name");
    assert_eq!(server.control(&other, "GET", "assets", &Value::Null).json()["assets"], json!([]));
    let names = server.control(&key, "GET", "assets?limit=1", &Value::Null).json();
    assert_eq!((names["assets"][0]["name"].clone(), names["cursor"].clone()), (json!("a"), json!("a")));
}

#[test]
fn uploads_that_begin_at_once_are_held_to_the_limit_together() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), not_dev: true, ..Options::default() });
    let key = server.tenant("acme", &json!({ "assets_mib": 3 }));
    let begin = |number: usize| {
        let headers = [("x-gannet-key", key.as_str()), ("content-range", "bytes 0-9/2097152")];
        server.send_bare("PUT", &format!("/api/v1/assets/a{number}"), &headers, &[0; 10]).status
    };
    let begin = &begin;
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..16).map(|number| scope.spawn(move || begin(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 202).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 429).count(), 15, "{answers:?}");
}

#[test]
fn an_upload_is_paid_for_by_the_request_that_caused_it_though_it_did_not_wait() {
    let server = Server::start_with(&Options { config: Some("map_assets = false\n"), ..Options::default() });
    assert_eq!(put(&server, "table", &[], &bytes(7, 16 << 20)).status, 201);
    assert_eq!(server.put(KEY, "hello", "quick", "[assets]\ntable = \"table\"\n", "").status, 201);
    let answer = server.call("quick", "/", b"");
    assert_eq!(answer.text(), "hello, world\n");
    let path = format!("/api/v1/requests/{}", answer.header("x-request-id"));
    wait_until("the request has ended", || server.send("GET", &path, &[], b"").status == 200);
    let receipt = server.receipt(&answer);
    assert!(receipt["assets_us"].as_u64().unwrap() > 1000 && receipt["gpu_ns"].as_u64().unwrap() > 0, "{receipt}");
}

/// Whether a worker has mapped an asset's file. None if this process may not look; only root may.
fn is_mapped(server: &Server, asset: &[u8]) -> Option<bool> {
    let mapped = |pid: &i32| match std::fs::read_to_string(format!("/proc/{pid}/maps")) {
        Ok(maps) => Some(maps.contains(&hex(asset))),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        // The worker has ended.
        Err(_) => Some(false),
    };
    let workers = server.children("__worker").iter().map(mapped).collect::<Option<Vec<_>>>()?;
    Some(workers.contains(&true))
}

#[test]
fn an_asset_waits_on_the_gpu_for_the_next_request() {
    let table = bytes(7, 16 << 20);
    // llvmpipe computes on the mapped file itself, unless `map_assets = false`. A GPU always gets copies.
    for map_assets in [true, false] {
        let config = format!("spares = 0\nmap_assets = {map_assets}\n");
        let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
        let name = server.send("GET", "/api/v1/gpus", &[], b"").json()["gpus"][0]["name"].to_string();
        let maps = map_assets && name.contains("llvmpipe");
        assert_eq!(put(&server, "table", &[], &table).status, 201);
        server.deploy("lookup");
        let bringing = |function: &str| {
            let answer = server.call(function, "/?bytes=4096", b"");
            assert_eq!(answer.status, 200, "{}", answer.text());
            server.receipt(&answer)["assets_us"].as_u64().unwrap()
        };
        assert!(bringing("lookup") > 0, "uploading 16 MiB takes measurable time");
        assert_eq!(bringing("lookup"), 0, "the second request finds the asset on the gpu");
        check_sum(&server, "/?from=12345&bytes=200000", &table, &table[12_345..212_345]);
        check_sum(&server, "/?from=16000000&bytes=200000", &table, &table[16_000_000..16_200_000]);
        assert!(is_mapped(&server, &table).is_none_or(|mapped| mapped == maps));
        assert_eq!(server.send("DELETE", "/api/v1/functions/lookup", &[], b"").status, 200);
        wait_until("the asset is unmapped", || is_mapped(&server, &table).is_none_or(|mapped| !mapped));
        if is_mapped(&server, &table).is_some() && maps {
            // With `min = 1` the asset is on the GPU before the first request.
            let kept = "[assets]\ntable = \"table\"\n[scale]\nmin = 1\n";
            assert_eq!(server.put(KEY, "lookup", "kept", kept, "").status, 201);
            wait_until("the asset is mapped", || is_mapped(&server, &table) == Some(true));
            assert_eq!(bringing("kept"), 0);
        }
    }
}
