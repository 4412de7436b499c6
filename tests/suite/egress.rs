//! Outbound HTTP: what functions may reach, and with which limits.

use crate::support::{KEY, Options, Server, text, wait_until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// Starts another server that sends `answer` to each request. Returns its port and a channel with the requests it got.
fn elsewhere(answer: &'static [u8]) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).unwrap_or(0);
                request.extend_from_slice(&buffer[..read]);
                let said = text(&request).to_ascii_lowercase();
                let head = said.find("\r\n\r\n");
                let length = said
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.split('\r').next()?.parse::<usize>().ok());
                if read == 0 || head.is_some_and(|head| request.len() >= head + 4 + length.unwrap_or(0)) {
                    break;
                }
            }
            let _ = stream.write_all(answer);
            if sender.send(text(&request)).is_err() {
                return;
            }
        }
    });
    (port, asked)
}

const FINE: &[u8] =
    b"HTTP/1.1 201 Created\r\ncontent-length: 8\r\nx-gannet-error: forged\r\nconnection: close\r\n\r\nanswered";

fn manifest(hosts: &[String]) -> String {
    format!("[http]\nallowed_outbound_hosts = {hosts:?}\n[limits]\ncpu_ms = 2000\n")
}

fn server(more: &str) -> Server {
    let config = format!("spares = 0\n[egress]\nresponse_mib = 1\nconnect_timeout_ms = 2000\n{more}");
    Server::start_with(&Options { config: Some(&config), ..Options::default() })
}

const OPEN: &str = "allow_ranges = [\"127.0.0.0/8\"]\n";

fn fetch(server: &Server, url: &str, body: &[u8]) -> crate::support::Response {
    server.call("f", &format!("/fetch?url={url}"), body)
}

#[test]
fn a_function_reaches_what_its_manifest_lists_and_nothing_else() {
    let server = server(OPEN);
    let (port, asked) = elsewhere(FINE);
    let listed = [format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}")];
    assert_eq!(server.put(KEY, "faulty", "f", "", "").status, 201);
    let denied = fetch(&server, &format!("http://127.0.0.1:{port}/x"), b"");
    assert_eq!(denied.status, 403, "denied by default: {}", denied.text());
    let id = denied.header("x-request-id").to_owned();
    wait_until("the log says which line of the manifest would allow it", || {
        let lines = server.get_json(&format!("/api/v1/functions/f/logs?request={id}")).to_string();
        lines.contains("[http] allowed_outbound_hosts does not list it")
    });
    assert_eq!(server.put(KEY, "faulty", "f", &manifest(&listed), "").status, 201);

    let answer = fetch(&server, &format!("http://localhost:{port}/path?q=1"), b"sent out");
    assert_eq!((answer.status, answer.text()), (201, "answered".into()));
    let request = asked.recv().unwrap();
    assert!(request.starts_with("POST /path?q=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: localhost:{port}\r\n")) && request.ends_with("sent out"), "{request}");
    assert!(request.contains("x-own: kept") && !request.contains("x-gannet"), "{request}");
    let receipt = server.receipt(&answer);
    assert!(receipt["egress_bytes"].as_u64().unwrap() > 16, "{receipt}");

    for url in [
        format!("http://127.0.0.1:{}/x", port.wrapping_add(1)),
        format!("https://127.0.0.1:{port}/x"),
        format!("http://127.0.0.2:{port}/x"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        format!("http://127.0.0.1:{port}@evil.example/x"),
    ] {
        let answer = fetch(&server, &url, b"");
        assert!([403, 502, 500].contains(&answer.status), "{url}: {} {}", answer.status, answer.text());
    }
    assert!(asked.try_recv().is_err(), "none of these requests was sent");
}

#[test]
fn a_call_that_a_guest_makes_when_it_is_made_is_its_requests_call() {
    let server = server(OPEN);
    let (port, asked) = elsewhere(FINE);
    let target = format!("http://127.0.0.1:{port}");
    let env = format!("[env]\nSTART = \"call\"\nTARGET = \"{target}/\"\n");
    assert_eq!(server.put(KEY, "faulty", "f", &(env + &manifest(&[target])), "").status, 201);
    for _ in 0..20 {
        let answer = server.call("f", "/started", b"");
        assert!(answer.text().starts_with("1 true "), "{}", answer.text());
        assert_eq!(server.receipt(&answer)["fault"], serde_json::Value::Null);
    }
    assert_eq!(asked.try_iter().count(), 20, "one call for each request");
}

#[test]
fn private_addresses_are_out_of_reach_even_when_listed() {
    let server = server("");
    let (port, asked) = elsewhere(FINE);
    let hosts = [
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        "http://169.254.169.254".to_owned(),
        format!("http://[::1]:{port}"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
    ];
    assert_eq!(server.put(KEY, "faulty", "f", &manifest(&hosts), "").status, 201);
    for host in &hosts {
        let answer = fetch(&server, &format!("{host}/x"), b"");
        assert_eq!(answer.status, 502, "{host}: {}", answer.text());
        assert!(
            answer.text().contains("DestinationIpProhibited") || answer.text().contains("destination-ip-prohibited"),
            "{}",
            answer.text()
        );
    }
    assert!(asked.try_recv().is_err());
}

#[test]
fn answers_that_are_too_large_or_never_come_are_errors_and_redirects_are_the_functions_to_follow() {
    let server = server(&format!("{OPEN}first_byte_timeout_ms = 300\n"));
    let (redirecting, _asked) = elsewhere(
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    let (large, _large) = elsewhere(b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n");
    let (silent, _silent) = elsewhere(b"");
    let nobody = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    let hold = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = hold.local_addr().unwrap().port();
    let hosts: Vec<String> =
        [redirecting, large, silent, nobody, held].iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    assert_eq!(server.put(KEY, "faulty", "f", &manifest(&hosts), "").status, 201);
    let told = |port: u16| {
        let answer = fetch(&server, &format!("http://127.0.0.1:{port}/"), b"");
        (answer.status, answer.text())
    };
    assert_eq!(told(redirecting).0, 302);
    let (status, said) = told(large);
    assert!(status == 502 && said.contains("BodySize"), "{status} {said}");
    assert_eq!(told(nobody).0, 502);
    assert_eq!(told(silent).0, 502);
    let (status, said) = told(held);
    assert!(status == 502 && said.contains("Timeout"), "{status} {said}");
    assert_eq!(server.call("f", "/say", b"").text(), "said", "the worker still works");
}

/// Starts another server that keeps its connections open. It answers each request with `answer`, at most `requests` of
/// them over one connection. Returns its port and the number of its connections.
fn keeping(answer: &'static [u8], requests: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, connections) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&connections);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                for _ in 0..requests {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if stream.read(&mut byte).unwrap_or(0) == 0 {
                            return;
                        }
                        request.push(byte[0]);
                    }
                    let _ = stream.write_all(answer);
                }
            });
        }
    });
    (port, connections)
}

#[test]
fn connections_are_used_again_by_the_same_tenant_only() {
    let server = server(OPEN);
    let (port, connections) = keeping(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", usize::MAX);
    let (closing, closed) = keeping(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 1);
    let manifest = manifest(&[format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{closing}")]);
    assert_eq!(server.put(KEY, "faulty", "f", &manifest, "").status, 201);
    let url = format!("http://127.0.0.1:{port}/x");
    for _ in 0..4 {
        assert_eq!(fetch(&server, &url, b"").text(), "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let other = server.tenant("other", &serde_json::json!({}));
    assert_eq!(server.put(&other, "faulty", "f", &manifest, "").status, 201);
    assert_eq!(server.call_as(&other, &format!("/f/other/f/fetch?url={url}"), b"").text(), "ok");
    assert_eq!(connections.load(Ordering::SeqCst), 2, "another tenant has its own");
    // A server that closes its side after each answer.
    for count in 1..=4 {
        assert_eq!(fetch(&server, &format!("http://127.0.0.1:{closing}/x"), b"").text(), "ok");
        assert_eq!(closed.load(Ordering::SeqCst), count);
    }
}

#[test]
fn answers_without_a_body_keep_what_they_say_of_it() {
    let server = server(OPEN);
    let (head, _) = keeping(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\netag: \"a\"\r\n\r\n", 1);
    let (unchanged, _) = keeping(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\netag: \"b\"\r\n\r\n", 1);
    let (nothing, _) = keeping(b"HTTP/1.1 204 No Content\r\netag: \"c\"\r\n\r\n", 1);
    let all = [head, unchanged, nothing].map(|port| format!("http://127.0.0.1:{port}"));
    assert_eq!(server.put(KEY, "faulty", "f", &manifest(&all), "").status, 201);
    for (url, method, status, seen) in
        [(&all[0], "HEAD", 200, "5 \"a\""), (&all[1], "GET", 304, "7 \"b\""), (&all[2], "GET", 204, "- \"c\"")]
    {
        let answer = server.call("f", &format!("/fetch?method={method}&url={url}/x"), b"");
        assert_eq!((answer.status, answer.text().as_str()), (status, ""), "{method} {url}");
        assert_eq!(answer.header("x-seen"), seen, "{method} {url}");
    }
}

#[test]
fn a_guests_own_timeouts_hold() {
    let server = server(OPEN);
    // One accepts no connection, because its queue is full; one never answers; one stops within its body.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let (part, _) = keeping(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst", usize::MAX);
    let (silent, _) = keeping(b"", usize::MAX);
    let ports = [full.local_addr().unwrap().port(), silent, part];
    let hosts = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let limits = manifest(&hosts).replace("cpu_ms = 2000", "cpu_ms = 2000\ntimeout_ms = 20000");
    assert_eq!(server.put(KEY, "faulty", "f", &limits, "").status, 201);
    let held: Vec<_> = (0..).map_while(|_| connect_now(ports[0])).take(10_000).collect();
    for host in hosts {
        // The server's own limits are 2 s for a connection, and 30 s for the others.
        let answer = server.call("f", &format!("/fetch?timeout_ms=200&url={host}/x"), b"");
        assert_eq!(answer.status, 502, "{host}: {}", answer.text());
        let receipt = server.receipt(&answer);
        assert_eq!(receipt["error"], serde_json::Value::Null, "the guest itself answered: {receipt}");
    }
    drop(held);
}

/// Connects to a port, unless its queue is full.
fn connect_now(port: u16) -> Option<TcpStream> {
    TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_millis(300)).ok()
}

#[test]
fn what_goes_out_in_a_day_is_limited() {
    let server = server(OPEN);
    let (port, _asked) = elsewhere(FINE);
    assert_eq!(server.put(KEY, "faulty", "f", &manifest(&[format!("http://127.0.0.1:{port}")]), "").status, 201);
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(fetch(&server, &url, &vec![b'x'; 1 << 20]).status, 201);
    let operator = server.operator();
    let limited =
        server.control(&operator, "PATCH", "tenants/dev/limits", &serde_json::json!({ "egress_mib_per_day": 1 }));
    assert_eq!(limited.status, 200);
    wait_until("the limit holds", || fetch(&server, &url, b"").status == 502);
}

#[test]
fn outbound_tls_trusts_the_usual_certificates_and_those_of_the_servers_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    let path = folder.path().display();
    let tls = format!("spares = 0\n[tls]\ncert = \"{path}/cert.pem\"\nkey = \"{path}/key.pem\"\n");
    let other = Server::start_with(&Options { config: Some(&tls), ..Options::default() });
    let hosts = ["localhost", "127.0.0.1"].map(|host| format!("https://{host}:{}", other.address.port()));
    let with = server(&format!("{OPEN}ca_file = \"{path}/cert.pem\"\n"));
    let without = server(OPEN);
    for server in [&with, &without] {
        assert_eq!(server.put(KEY, "faulty", "f", &manifest(&hosts), "").status, 201);
    }
    let fine = fetch(&with, &format!("{}/healthz", hosts[0]), b"");
    assert_eq!((fine.status, fine.text()), (200, "ok\n".into()));
    for (server, host) in [(&without, &hosts[0]), (&with, &hosts[1])] {
        let refused = fetch(server, &format!("{host}/healthz"), b"");
        assert_eq!(refused.status, 502, "{}", refused.text());
        assert!(refused.text().contains("TlsCertificateError"), "{}", refused.text());
    }
}

#[test]
fn calls_beyond_the_bound_wait_for_their_turn() {
    let server = server(&format!("{OPEN}concurrency = 1\n"));
    let (port, asked) = elsewhere(FINE);
    let target = format!("http://127.0.0.1:{port}");
    let manifest = manifest(std::slice::from_ref(&target));
    assert_eq!(server.put(KEY, "faulty", "f", &manifest, "").status, 201);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..12).map(|_| scope.spawn(|| fetch(&server, &format!("{target}/x"), b""))).collect();
        for call in calls {
            let answer = call.join().unwrap();
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    });
    assert_eq!(asked.try_iter().count(), 12);
}
