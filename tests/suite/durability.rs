//! A change is acknowledged only after it is on disk.

use crate::support::{KEY, Options, Server, prebuilt, text, wait_until};
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

#[test]
fn a_restart_serves_what_was_deployed() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path()), ..Options::default() };
    let server = Server::start_with(&options);
    server.deploy("hello");
    server.deploy("mandelbrot");
    server.kill();
    let server = Server::start_with(&options);
    assert_eq!(server.call("hello", "/?name=again", b"").text(), "hello, again\n");
    assert_eq!(server.call("mandelbrot", "/?width=8&height=8", b"").status, 200);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_second_server_cannot_use_the_folder() {
    let server = Server::shared();
    let output = std::process::Command::new(crate::support::binary())
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data", &server.data.display().to_string()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("is in use by another server"), "{}", text(&output.stderr));
}

#[test]
fn kill_at_any_moment_loses_no_acknowledged_deploy_and_leaves_no_half_one() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path()), config: Some("spares = 0"), ..Options::default() };
    let bytes = std::fs::read(prebuilt("hello")).unwrap();
    for round in 0..5 {
        let server = Server::start_with(&options);
        let acknowledged = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..1000 {
                    let url = format!("{}/api/v1/functions/f{round}-{number}", server.url);
                    let sent = ureq::put(&url)
                        .header("x-gannet-key", KEY)
                        .header("content-type", "application/wasm")
                        .send(&bytes[..]);
                    match sent {
                        Ok(answer) if answer.status() == 201 => acknowledged.fetch_add(1, Ordering::SeqCst),
                        _ => return,
                    };
                }
            });
            crate::support::wait_until("some deploys are acknowledged", || {
                acknowledged.load(Ordering::SeqCst) > 3 + round
            });
            server.kill();
        });
        drop(server);
        let server = Server::start_with(&options);
        let listed = server.get_json("/api/v1/functions?limit=1000");
        let mine = format!("f{round}-");
        let listed: Vec<String> = listed["functions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["name"].as_str().unwrap().to_owned())
            .filter(|name| name.starts_with(&mine))
            .collect();
        let count = acknowledged.load(Ordering::SeqCst);
        for number in 0..count {
            assert!(
                listed.contains(&format!("{mine}{number}")),
                "round {round}: {number} of {count} is gone: {listed:?}"
            );
        }
        // At most one more may be there: the deploy that was in progress. It must be complete.
        assert!(listed.len() <= count + 1, "{count} {listed:?}");
        let last = listed.iter().max_by_key(|name| name[mine.len()..].parse::<usize>().unwrap()).unwrap();
        assert_eq!(server.call(last, "/", b"").text(), "hello, world\n");
        assert_eq!(
            std::fs::read_dir(data.path().join("incoming")).unwrap().count(),
            0,
            "leftovers are removed at start"
        );
    }
}

/// After `kill -9` the operating system still writes its cached pages to disk, so a kill cannot show that anything was
/// synced. The order of the system calls can.
#[test]
fn the_system_calls_of_a_deploy_are_in_the_order_that_survives_a_power_cut() {
    let folder = TempDir::new().unwrap();
    let (trace, data) = (folder.path().join("trace"), folder.path().join("data"));
    let trace_text = trace.display().to_string();
    let under = [
        "strace",
        "-f",
        "-y",
        "-s",
        "4096",
        "-e",
        "trace=fsync,fdatasync,rename,renameat,renameat2,write,writev,pwrite64,sendto",
        "-o",
        &trace_text,
    ];
    let server = Server::start_with(&Options {
        data: Some(&data),
        config: Some("spares = 0"),
        under: &under,
        ..Options::default()
    });
    server.deploy("hello");
    let called = server.call("hello", "/", b"");
    wait_until("the request is billed", || server.receipt(&called)["billed"] == true);
    server.kill();
    let trace = std::fs::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = trace.lines().filter(|line| !line.contains("resumed>")).collect();
    let after = |from: usize, what: &str, found: &dyn Fn(&str) -> bool| -> usize {
        let at = lines.iter().skip(from).position(|line| found(line));
        from + at.unwrap_or_else(|| panic!("no {what} after line {from} of {}", lines.len())) + 1
    };
    let sync = |line: &str, path: &str| line.contains("fsync(") && line.contains(path);
    let rename = |line: &str, path: &str| line.contains("rename") && line.contains(path);
    for (folder, ending) in [("/compiled/", ".cwasm"), ("/components/", ".wasm")] {
        let moved = after(0, "rename to its place", &|line| rename(line, folder) && line.contains(ending));
        let source = lines[moved - 1].split('"').nth(1).unwrap();
        assert!(lines[..moved].iter().any(|line| sync(line, source)), "{source} was renamed before it was synced");
        let synced = after(moved, "sync of its folder", &|line| sync(line, folder.trim_end_matches('/')));
        let committed = after(synced, "sync of the database", &|line| sync(line, "/db/db"));
        after(committed, "the answer", &|line| line.contains("HTTP/1.1 201"));
    }
    let answered = after(0, "the answer", &|line| line.contains("HTTP/1.1 201"));
    let wrote = |line: &str, path: &str| line.contains("write") && line.contains(path);
    let written = lines[..answered].iter().rposition(|line| wrote(line, "/db/db>")).unwrap() + 1;
    assert!(
        lines[written..answered].iter().any(|line| sync(line, "/db/db")),
        "the database was written but not synced before the response"
    );
    // The ledger's line must be synced before a receipt says that it is billed.
    let written = after(answered, "write of the line", &|line| wrote(line, "/ledger/"));
    let synced = after(written, "sync of the ledger", &|line| line.contains("sync(") && line.contains("/ledger/"));
    let told = after(answered, "receipt that is billed", &|line| line.contains("\\\"billed\\\": true"));
    assert!(synced < told, "a receipt said that its line is on disk before it was synced");
}
