//! HTTP as the standard says: refusals that arrive, HEAD, expectations, hosts, codings, and what a guest learns of how
//! it was called.

use crate::support::{KEY, Server, text};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Sends a head and a whole body with blocking writes, and only then reads, as simple clients do.
fn send_all(server: &Server, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    text(&answer)
}

#[test]
fn a_refusal_arrives_although_the_client_is_still_sending() {
    let server = Server::shared();
    let body = vec![b'x'; 9 << 20];
    for (line, status) in [
        ("PUT /api/v1/functions/new HTTP/1.1\r\nx-gannet-key: gnt_wrong", "401"),
        ("PUT /api/v1/functions/new HTTP/1.1", "401"),
        ("POST /f/dev/nothing/ HTTP/1.1", "401"),
        ("POST /f/dev/hello//x HTTP/1.1", "400"),
        ("PATCH /api/v1/nothing HTTP/1.1\r\nx-gannet-key: gnt_dev_local", "404"),
        ("PUT /api/v1/functions/new HTTP/1.1\r\nx-gannet-key: gnt_dev_local\r\ncontent-type: text/plain", "415"),
    ] {
        let head = format!("{line}\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = send_all(server, &head, &body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{line}: {answer}");
    }
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_is_sent() {
    let server = Server::shared();
    for (line, limit) in [("POST /f/dev/hello/", 2_u64 << 30), ("PUT /api/v1/functions/new", 2 << 30)] {
        let answer = server.raw(
            format!(
                "{line} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\ncontent-type: application/wasm\r\n\
                 content-length: {limit}\r\nexpect: 100-continue\r\n\r\n"
            )
            .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 413"), "{line}: {answer}");
    }
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::shared();
    for path in ["/api/v1/functions", "/api/v1/limits", "/healthz", "/api/v1/functions/hello"] {
        let get = server.send("GET", path, &[], b"");
        let answer = server.raw(
            format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert_eq!(body, "", "{path}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        // Limits show what is in use, which may have changed.
        assert!(length.parse::<usize>().unwrap().abs_diff(get.bytes().len()) < 4, "{path}: {head}");
    }
    let none = server.raw(
        format!("HEAD /api/v1/nothing HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nconnection: close\r\n\r\n")
            .as_bytes(),
    );
    assert!(none.starts_with("HTTP/1.1 404") && none.ends_with("\r\n\r\n"), "{none}");
}

#[test]
fn requests_without_a_valid_host_and_with_other_codings_are_refused() {
    let server = Server::shared();
    let answer = |lines: &str| server.raw(format!("{lines}connection: close\r\n\r\n").as_bytes());
    for bad in ["", "host: \r\n", "host: a b\r\n", "host: user@localhost\r\n", "host: localhost/x\r\n"] {
        let answer = answer(&format!("GET /healthz HTTP/1.1\r\n{bad}"));
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad:?}: {answer}");
        assert!(answer.contains("\"fault\": \"caller\""), "{bad:?}: {answer}");
    }
    let good = answer("GET /healthz HTTP/1.1\r\nhost: [::1]:80\r\n");
    assert!(good.starts_with("HTTP/1.1 200"), "{good}");
    let coded = answer("POST /f/dev/hello/ HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip, chunked\r\n");
    assert!(coded.starts_with("HTTP/1.1 501"), "{coded}");
}

#[test]
fn a_line_feed_alone_ends_no_line() {
    let server = Server::shared();
    let good = format!("GET /f/dev/hello/ HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n\r\n");
    for bad in [
        "GET /healthz HTTP/1.1\nhost: localhost\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: y\nsmuggled: 1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\n",
    ] {
        let alone = server.raw(bad.as_bytes());
        assert!(alone.starts_with("HTTP/1.1 400"), "{bad:?}: {alone}");
        // Behind another request on the same connection, which has a body with line feeds.
        let body = format!(
            "POST /f/dev/faulty/length HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\ncontent-length: 4\r\n\r\n\n\n\n\n"
        );
        let both = server.raw(format!("{good}{body}{bad}").as_bytes());
        let statuses: Vec<&str> = both.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect();
        assert_eq!(statuses, ["200", "200", "400"], "{bad:?}: {both}");
    }
    // What a filter must not change: the parser refuses this chunk, and reads no request behind it.
    let smuggled = "GET /f/dev/hello/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let chunks = format!("transfer-encoding: chunked\r\n\r\n2;\nxx\r\n2d\r\n0\r\n\r\n{smuggled}");
    let head = format!("POST /f/dev/faulty/length HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n");
    let answer = server.raw(format!("{head}{chunks}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
    // A body with line feeds arrives as it was sent, and a length behind many zeros is refused.
    let zeros = "0".repeat(70);
    let answer = server.raw(format!("{head}content-length: {zeros}4\r\n\r\na\nb\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let trailers = "transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\nsmuggled: 1\r\n\r\n";
    let answer = server.raw(
        format!("POST /f/dev/faulty/length HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n{trailers}")
            .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn a_guest_may_announce_the_length_of_what_it_does_not_send() {
    let server = Server::shared();
    let head = |method: &str| {
        let path = "/f/dev/faulty/length-only";
        server.raw(
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    let answer = head("HEAD");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\ncontent-length: 5\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(head("GET").starts_with("HTTP/1.1 502"), "the body is missing");
}

#[test]
fn an_answer_without_content_has_no_length() {
    let server = Server::shared();
    let head = format!("GET /f/dev/faulty/empty HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n");
    let answer = server.raw(format!("{head}\r\n{head}connection: close\r\n\r\n").as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 204").count(), 2, "the connection goes on: {answer}");
    assert!(answer.contains("x-own: kept") && !answer.contains("content-length"), "{answer}");
}

#[test]
fn head_over_http_2_is_get_without_the_body() {
    let expected = [("/healthz", "3"), ("/f/dev/hello/", "13"), ("/f/dev/faulty/length-only", "5")];
    let responses = Server::shared().over_http_2("HEAD", &expected.map(|(path, _)| path));
    for ((path, length), (head, body, _)) in expected.into_iter().zip(responses) {
        assert_eq!(head.status.as_u16(), 200, "{path}");
        assert_eq!(head.headers["content-length"], length, "{path}");
        assert!(body.is_empty(), "{path}");
    }
}

#[test]
fn a_guest_learns_how_it_was_called_and_its_redirects_stay_inside_it() {
    let server = Server::shared();
    let echo = server.raw(
        format!(
            "GET /f/dev/faulty/echo HTTP/1.1\r\nhost: localhost:80\r\nx-gannet-key: {KEY}\r\n\
             x-forwarded-prefix: /admin\r\ncookie: a=1\r\ncookie: b=2\r\nconnection: close\r\n\r\n"
        )
        .as_bytes(),
    );
    for line in ["GET /echo", "x-forwarded-prefix=/f/dev/faulty", "x-forwarded-proto=http", "cookie=a=1; b=2"] {
        assert!(echo.lines().any(|seen| seen == line), "{line} in {echo}");
    }
    let moved = |to: &str| {
        let answer = server.call("faulty", &format!("/moved?to={to}"), b"");
        assert_eq!(answer.status, 302);
        answer.header("location").to_owned()
    };
    assert_eq!(moved("/next"), "/f/dev/faulty/next");
    assert_eq!(moved("next"), "next");
    assert_eq!(
        moved(&format!("http://{}/next", server.address)),
        format!("http://{}/f/dev/faulty/next", server.address)
    );
    assert_eq!(moved("https://elsewhere.example/next"), "https://elsewhere.example/next");
}
