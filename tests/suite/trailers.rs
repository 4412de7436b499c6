//! Trailers of requests and responses, over HTTP/1.1 and HTTP/2. `tests/clients/grpc` tests them with gRPC.

use crate::support::{KEY, Server};

#[test]
fn trailers_of_a_request_reach_the_guest() {
    let server = Server::shared();
    let chunked = "transfer-encoding: chunked\r\ntrailer: x-sum, content-length\r\nconnection: close";
    let answer = server.raw(
        format!(
            "POST /f/dev/faulty/trailers HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n{chunked}\r\n\r\n\
             3\r\nabc\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\n\r\n"
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-sum=7"), "{answer}");
    let none = server.send("POST", "/f/dev/faulty/trailers", &[], b"abc");
    assert_eq!(none.text(), "x-sum=-");
}

#[test]
fn trailers_of_a_response_reach_clients_of_http_1_that_ask_for_them() {
    let server = Server::shared();
    let get = |path: &str, te: &str| {
        let head = format!("GET /f/dev/faulty/{path} HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\n{te}");
        server.raw(format!("{head}connection: close\r\n\r\n").as_bytes())
    };
    for path in ["trailers", "late-trailers"] {
        let asked = get(path, "te: trailers\r\n");
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\ntransfer-encoding: chunked"), "{asked}");
        assert!(
            body.contains("\r\n0\r\n") && body.contains("x-own: kept\r\n") && body.ends_with("\r\n\r\n"),
            "{asked}"
        );
        for refused in ["a=b", "content-length", "x-gannet-own"] {
            assert!(!body.contains(refused) && !head.contains(refused), "{refused} in {asked}");
        }
        let not_asked = get(path, "");
        assert!(not_asked.ends_with("\r\n0\r\n\r\n") && !not_asked.contains("x-own: kept"), "{not_asked}");
    }
    // A connection that carried trailers serves the next request.
    let twice =
        format!("GET /f/dev/faulty/trailers HTTP/1.1\r\nhost: localhost\r\nx-gannet-key: {KEY}\r\nte: trailers\r\n");
    let both = server.raw(format!("{twice}\r\n{twice}connection: close\r\n\r\n").as_bytes());
    assert_eq!(both.matches("x-own: kept").count(), 2, "{both}");
}

#[test]
fn trailers_of_a_response_reach_clients_of_http_2() {
    let paths = ["/f/dev/faulty/trailers", "/f/dev/faulty/late-trailers"];
    let responses = Server::shared().over_http_2("GET", &paths);
    // Of a streamed response the server reports the times in a trailer too.
    let expected = [("x-sum=-", false), ("firstlast", true)];
    for ((body, is_streamed), (head, received, trailers)) in expected.into_iter().zip(responses) {
        assert_eq!(head.status, 200);
        assert_eq!(received, body);
        assert_eq!(trailers["x-own"], "kept");
        assert_eq!(trailers.contains_key("server-timing"), is_streamed, "{trailers:?}");
        for refused in ["set-cookie", "content-length", "x-gannet-own"] {
            assert!(!trailers.contains_key(refused), "{trailers:?}");
        }
    }
}
