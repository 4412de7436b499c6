//! HTTP at the front door: keys, paths, framing, forged headers, clients that are slow or disconnect.

use crate::support::{KEY, Options, Server, prebuilt, text, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn a_wrong_key_and_no_key_are_401_and_strangers_look_like_nothing() {
    let server = Server::shared();
    server.send_bare("GET", "/f/dev/hello/", &[("x-gannet-key", "gnt_dev_wrong")], b"").is_problem(
        401,
        "unauthorized",
        "not valid",
    );
    server.send_bare("GET", "/f/dev/hello/", &[("authorization", "Bearer gnt_dev_wrong")], b"").is_problem(
        401,
        "unauthorized",
        "not valid",
    );
    // Without a key, the response is the same whether a function exists or not.
    let exists = server.send_bare("GET", "/f/dev/hello/", &[], b"");
    let does_not = server.send_bare("GET", "/f/dev/nothing/", &[], b"");
    let stranger = server.send_bare("GET", "/f/nobody/hello/", &[], b"");
    for answer in [&exists, &does_not, &stranger] {
        answer.is_problem(401, "unauthorized", "a key is needed");
    }
    // With a key, the response for another tenant's function is the same as for one that does not exist.
    for path in ["/f/dev/nothing/", "/f/nobody/hello/", "/f/dev", "/nowhere"] {
        server.send("GET", path, &[], b"").is_problem(404, "not_found", "no such function or path");
    }
}

#[test]
fn path_tricks_are_400() {
    let server = Server::shared();
    for path in [
        "/f/dev/hello/../x",
        "/f/dev/hello/%2e%2e/x",
        "/f/dev//hello",
        "/f/dev/hello//x",
        "/f/dev/hello/%2fx",
        "/f/dev/./hello/x",
    ] {
        let answer = server.raw(
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("path_invalid"), "{path}: {answer}");
    }
}

#[test]
fn framing_that_could_be_read_in_two_ways_is_400() {
    let server = Server::shared();
    let head = format!(
        "POST /f/dev/faulty/length HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nconnection: close\r\n"
    );
    for framing in ["content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", "content-length: +3\r\n\r\nabc"] {
        let answer = server.raw(format!("{head}{framing}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{framing:?}: {answer}");
    }
    // The same length twice is one length (RFC 9110, 8.6); the worker gets it once.
    let same = server.raw(format!("{head}content-length: 3\r\ncontent-length: 3\r\n\r\nabc").as_bytes());
    assert!(same.starts_with("HTTP/1.1 200 ") && same.ends_with("3"), "{same}");
    // A content-length beside chunks is ignored (RFC 9112, 6.3). The guest gets the chunks in a request that the front
    // door has rebuilt, so that nothing behind it can read the framing differently.
    let both = format!("{head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n");
    let both = server.raw(both.as_bytes());
    assert!(both.starts_with("HTTP/1.1 400 ") || (both.starts_with("HTTP/1.1 200 ") && both.ends_with("5")), "{both}");
    let fine = server.raw(format!("{head}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").as_bytes());
    assert!(fine.starts_with("HTTP/1.1 200 ") && fine.ends_with("3"), "{fine}");
}

#[test]
fn forged_headers_and_the_key_do_not_reach_the_guest() {
    let server = Server::shared();
    let answer = server.send(
        "GET",
        "/f/dev/faulty/echo",
        &[
            ("authorization", "Bearer own"),
            ("x-gannet-tenant", "zoo"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("connection", "x-gannet-tenant, x-secret"),
            ("x-secret", "1"),
            ("x-own", "kept"),
        ],
        b"",
    );
    let seen = answer.text();
    for line in [
        "authorization=Bearer own",
        "x-gannet-key=-",
        "x-gannet-tenant=-",
        "x-forwarded-for=127.0.0.1",
        "forwarded=-",
        "x-secret=-",
        "connection=-",
        "x-own=kept",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    let bearer = server.send_bare("GET", "/f/dev/faulty/echo", &[("authorization", &format!("Bearer {KEY}"))], b"");
    assert!(bearer.text().contains("authorization=-"), "{}", bearer.text());
}

#[test]
fn a_guest_cannot_speak_for_the_platform() {
    let answer = Server::shared().call("faulty", "/headers", b"");
    assert_eq!((answer.status, answer.header("x-own"), answer.header("etag")), (200, "kept", "\"1\""));
    assert_ne!(answer.header("x-request-id"), "forged");
    assert!(answer.header("server-timing").starts_with("admit;dur="), "{}", answer.header("server-timing"));
    assert!(["hot", "warm", "cold"].contains(&answer.header("x-gannet-start")));
    for removed in [
        "x-gannet-error",
        "set-cookie",
        "service-worker-allowed",
        "clear-site-data",
        "strict-transport-security",
        "nel",
        "report-to",
        "reporting-endpoints",
        "alt-svc",
        "speculation-rules",
        "use-as-dictionary",
        "accept-ch",
        "origin-agent-cluster",
        "www-authenticate",
        "what-comes-next-year",
        "x-accel-redirect",
        "x-sendfile",
    ] {
        assert_eq!(answer.header(removed), "", "{removed}");
    }
    assert_eq!(
        (answer.header("content-security-policy"), answer.header("x-content-type-options")),
        ("sandbox", "nosniff")
    );
}

#[test]
fn upgrade_and_connect_are_501() {
    let server = Server::shared();
    let upgrade = server.raw(format!("GET /f/dev/hello/ HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").as_bytes());
    assert!(upgrade.starts_with("HTTP/1.1 501 ") && upgrade.contains("upgrade_unsupported"), "{upgrade}");
    let connect = server.raw(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\nconnection: close\r\n\r\n");
    assert!(connect.starts_with("HTTP/1.1 501 "), "{connect}");
}

#[test]
fn bodies_and_heads_over_their_limits_are_refused() {
    let server = Server::shared();
    let large = vec![0; (10 << 20) + 1];
    server.call("faulty", "/length", &large).is_problem(413, "body_too_large", "the limit of 10485760 bytes");
    let fits = server.call("faulty", "/length", &large[..10 << 20]);
    assert_eq!(fits.text(), (10 << 20).to_string());
    // Without a content-length, the limit is enforced while the body arrives.
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "POST /f/dev/faulty/length HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let part = vec![b'x'; 1 << 20];
    for _ in 0..12 {
        let sent = write!(stream, "{:x}\r\n", part.len())
            .and_then(|()| stream.write_all(&part))
            .and_then(|()| stream.write_all(b"\r\n"));
        if sent.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = text(&answer);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // The receipt includes what the guest used until then.
    let (_, id) = answer.split_once("x-request-id: ").unwrap();
    let receipt = server.get_json(&format!("/api/v1/requests/{}", id.lines().next().unwrap().trim()));
    assert!(receipt["guest_us"].as_u64().unwrap() > 0 && receipt["error"] == "body_too_large", "{receipt}");

    let long = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "x".repeat(100_000));
    assert!(server.raw(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    let many = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert!(server.raw(many.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert_eq!(send_over_http_2(server, "/healthz", 200).0, 431);
}

#[test]
fn a_client_that_sends_its_head_too_slowly_is_cut_off() {
    let server = Server::shared();
    let answer = server.raw(b"GET /healthz HTTP/1.1\r\nhost: loc");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_client_that_stops_sending_its_body_gets_408() {
    let server = Server::start();
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(prebuilt("faulty"), folder.path().join("f.wasm")).unwrap();
    // A timeout that is longer than the longest pause the server allows in a body.
    let manifest = "name = \"patient\"\n[build]\nartifact = \"f.wasm\"\n[limits]\ntimeout_ms = 90000\n";
    std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
    let output = server.cli(&["deploy", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(crate::support::WAIT_MAX)).unwrap();
    write!(
        stream,
        "POST /f/dev/patient/length HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\ncontent-length: 10\r\n\r\nabc"
    )
    .unwrap();
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).unwrap();
    let answer = text(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn clients_that_leave_give_their_places_back() {
    let server = Server::shared();
    // More than the function's sixteen permits.
    for _ in 0..40 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        write!(stream, "GET /f/dev/faulty/sleep HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n\r\n").unwrap();
        drop(stream);
    }
    assert_eq!(server.call("faulty", "/say", b"").text(), "said");
}

#[test]
fn a_public_function_needs_no_key_and_keeps_authorization_for_itself() {
    let server = Server::start();
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(prebuilt("faulty"), folder.path().join("f.wasm")).unwrap();
    std::fs::write(
        folder.path().join("gannet.toml"),
        "name = \"open\"\n[build]\nartifact = \"f.wasm\"\n[http]\npublic = true\n",
    )
    .unwrap();
    let output = server.cli(&["deploy", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer = server.send_bare("GET", "/f/dev/open/echo", &[("authorization", "Bearer own")], b"");
    assert!(answer.text().contains("authorization=Bearer own"), "{}", answer.text());
}

#[test]
fn a_development_server_answers_only_to_names_of_this_machine() {
    let server = Server::shared();
    let answer = server.raw(
        format!("GET /f/dev/hello/ HTTP/1.1\r\nhost: evil.example\r\nx-gannet-key: {KEY}\r\nconnection: close\r\n\r\n")
            .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("bad_host"), "{answer}");
    // Without `--dev` the development key is invalid, even on a data folder that a development server used before.
    let data = tempfile::TempDir::new().unwrap();
    drop(Server::start_with(&Options { data: Some(data.path()), ..Options::default() }));
    let plain = Server::start_with(&Options { data: Some(data.path()), not_dev: true, ..Options::default() });
    plain.send("GET", "/api/v1/whoami", &[], b"").is_problem(401, "unauthorized", "not valid");
}

#[test]
fn http_2_without_tls_works_and_a_streamed_answer_says_its_cost_at_the_end() {
    let server = Server::shared();
    let (body, timing) = over_http_2(server, "/f/dev/stream/?count=3&every_ms=20");
    assert!(body.contains("chunk 3 of 3"), "{body}");
    assert!(timing.starts_with("admit;dur="), "{timing}");
    let raw = server.raw(format!("GET /f/dev/stream/?count=3&every_ms=20 HTTP/1.1\r\nhost: localhost\r\nte: trailers\r\nx-gannet-key: {KEY}\r\nconnection: close\r\n\r\n").as_bytes());
    let (_, trailer) = raw.split_once("\r\n0\r\n").unwrap();
    assert!(trailer.contains("server-timing: admit;dur="), "{raw}");
}

#[test]
fn a_client_that_does_not_take_its_answer_gives_its_place_back() {
    let server = Server::start();
    // The whole time of a response, and the time for which its client takes nothing.
    for limit in ["stream_timeout_ms = 1000", "stream_idle_ms = 1000"] {
        untaken(&server, limit);
    }
}

fn untaken(server: &Server, limit: &str) {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(prebuilt("matmul"), folder.path().join("f.wasm")).unwrap();
    let limits = format!("[limits]\nconcurrency = 1\n{limit}\nqueue_ms = 60000\ntimeout_ms = 90000\n");
    let manifest = format!("name = \"large\"\n[build]\nartifact = \"f.wasm\"\n{limits}");
    std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
    let output = server.cli(&["deploy", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // The response has 4 MiB, and the client's window stays at 64 KiB.
    let path = "/f/dev/large/?rows=1024&inner=1&columns=1024";
    let body = vec![0u8; 2048 * 4];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (held, sender) = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(65_535)
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::post(format!("{}{path}", server.url))
            .header("x-gannet-key", KEY)
            .body(http_body_util::Full::new(bytes::Bytes::from(body.clone())))
            .unwrap();
        (sender.send_request(request).await.unwrap(), sender)
    });
    assert_eq!(held.status().as_u16(), 200);
    // The function's only permit is taken until the server gives up on the response that the client does not read.
    let next = server.send("POST", path.trim_start_matches("http://"), &[], &body);
    assert_eq!((next.status, next.bytes().len()), (200, 4 << 20));
    let id = held.headers()["x-request-id"].to_str().unwrap();
    wait_until("its receipt says why", || {
        let answer = server.send("GET", &format!("/api/v1/requests/{id}"), &[], b"");
        answer.status == 200 && answer.json()["error"] == "client_too_slow"
    });
    drop((held, sender));
}

#[test]
fn responses_that_wait_for_their_clients_take_bounded_memory_and_stop_nobody() {
    const STREAMS: usize = 15;
    const RESPONSE_BYTES: usize = 1 << 20;
    let server = Server::start_with(&Options {
        config: Some("[edge]\nwaiting_mib_per_address = 1\nwaiting_mib = 4\n"),
        ..Options::default()
    });
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(prebuilt("matmul"), folder.path().join("f.wasm")).unwrap();
    let limits = format!("[limits]\nconcurrency = {}\ntimeout_ms = 90000\nqueue_ms = 60000\n", STREAMS + 1);
    let manifest = format!("name = \"large\"\n[build]\nartifact = \"f.wasm\"\n{limits}");
    std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
    let output = server.cli(&["deploy", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let path = "/f/dev/large/?rows=512&inner=1&columns=512";
    let body = vec![0u8; (512 + 512) * 4];
    // HTTP/2 by hand: the windows are open, and the client does not read from its socket. The requests fit into the
    // window of a new connection.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut requests = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    requests.extend(http_2_frame(4, 0, 0, &[&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat()));
    requests.extend(http_2_frame(8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()));
    for number in 0..STREAMS {
        let id = u32::try_from(2 * number + 1).unwrap();
        let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
        let fields = fields.into_iter().chain([("x-gannet-key", KEY)]);
        let head: Vec<u8> = fields.flat_map(|(name, value)| http_2_field(name, value)).collect();
        requests.extend(http_2_frame(1, 4, id, &head));
        requests.extend(http_2_frame(0, 1, id, &body));
    }
    stream.write_all(&requests).unwrap();
    wait_until("the bytes that wait reach the limit", || server.metric("response_bytes_waiting") >= 1 << 20);
    // Somebody who reads gets the whole response meanwhile, from the same address.
    let other = server.send("POST", path, &[], &body);
    assert_eq!((other.status, other.bytes().len()), (200, RESPONSE_BYTES));
    // Beyond the limit, each response has one part waiting, of at most what one read of the hop takes.
    let most = (1 << 20) + u64::try_from(STREAMS).unwrap() * (16 << 10);
    let waiting = server.metric("response_bytes_waiting");
    assert!(waiting <= most, "{waiting} bytes wait; the limit is {most}");
    // Once the client reads, it gets all of them.
    let (mut ended, mut received) = (0, 0);
    while ended < STREAMS {
        let mut prefix = [0; 9];
        stream.read_exact(&mut prefix).unwrap();
        let [a, b, c, kind, flags, ..] = prefix;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).unwrap();
        assert!(kind != 3 && kind != 7, "a stream or the connection was ended: {prefix:?}");
        received += if kind == 0 { payload.len() } else { 0 };
        ended += usize::from(matches!(kind, 0 | 1) && flags & 1 == 1);
    }
    assert_eq!(received, STREAMS * RESPONSE_BYTES);
    wait_until("nothing waits any more", || server.metric("response_bytes_waiting") == 0);
}

/// A frame of HTTP/2.
fn http_2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// A header field of HTTP/2 as HPACK's literal without indexing.
fn http_2_field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
    [&[0, length(name)][..], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

#[test]
fn idle_connections_lock_nobody_out() {
    // More than a listener has seats, with those of its reserve.
    const CONNECTIONS: usize = 4_400;
    let files = u64::try_from(CONNECTIONS + 500).unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.current.map(|now| now.max(files)), maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let config = "spares = 0\n[edge]\nconnections_per_address = 1000000";
    let server = Server::start_with(&Options { config: Some(config), ..Options::default() });
    // The preface of HTTP/2 and an empty frame of settings: a connection that is established and then idle.
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut idle = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(begin).unwrap();
        idle.push(stream);
    }
    assert_eq!(server.send("GET", "/api/v1/whoami", &[], b"").status, 200);
    assert_eq!(server.send("GET", "/healthz", &[], b"").status, 200);
    // The oldest made room. It reads what the server sent it, and then the end.
    let oldest = idle.first_mut().unwrap();
    oldest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    let ended = oldest.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

/// Sends a request over HTTP/2 with prior knowledge. Returns the response's body and its trailer `server-timing`.
fn over_http_2(server: &Server, path: &str) -> (String, String) {
    let (status, body, timing) = send_over_http_2(server, path, 0);
    assert_eq!(status, 200);
    (body, timing)
}

/// Sends a request over HTTP/2, with `headers` headers beside the key. Returns status, body and the trailer `server-timing`.
fn send_over_http_2(server: &Server, path: &str, headers: usize) -> (u16, String, String) {
    use http_body_util::BodyExt;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let mut request = hyper::Request::get(format!("{}{path}", server.url)).header("x-gannet-key", KEY);
        for _ in 0..headers {
            request = request.header("x", "y");
        }
        let response = sender.send_request(request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap());
        let response = response.await.unwrap();
        assert_eq!(response.version(), hyper::Version::HTTP_2);
        let status = response.status().as_u16();
        let collected = response.into_body().collect().await.unwrap();
        let timing = collected.trailers().and_then(|t| t.get("server-timing")).map(|v| v.to_str().unwrap().to_owned());
        (status, text(&collected.to_bytes()), timing.unwrap_or_default())
    })
}
