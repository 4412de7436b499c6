//! A receiver of webhooks, which verifies their signatures.

use super::{WAIT_MAX, text};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A message that a receiver got.
pub struct Message {
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        let head = text(&bytes);
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers: HashMap<String, String> =
            fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        Self { headers, body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks that one of its signatures was made with a secret.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut signed = format!("{}.{}.", self.headers["webhook-id"], self.headers["webhook-timestamp"]).into_bytes();
        signed.extend_from_slice(&self.body);
        let expected = format!("v1,{}", BASE64_STANDARD.encode(hmac(&key, &signed)));
        self.headers["webhook-signature"].split(' ').any(|signature| signature == expected)
    }
}

/// HMAC-SHA256 (RFC 2104) for keys of at most one block.
pub fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([pad(0x36), text.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// Signs as Standard Webhooks does, and returns the headers.
pub fn standard(secret: &str, id: &str, time: u64, body: &[u8]) -> [(&'static str, String); 3] {
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let code = hmac(&key, &[format!("{id}.{time}.").as_bytes(), body].concat());
    let signature = format!("v1,{}", BASE64_STANDARD.encode(code));
    [("webhook-id", id.to_owned()), ("webhook-timestamp", time.to_string()), ("webhook-signature", signature)]
}

/// Receives webhooks.
pub struct Receiver {
    pub address: SocketAddr,
    messages: mpsc::Receiver<Message>,
}

impl Receiver {
    /// Answers the first messages with these heads, such as `500 Error`, and all others with 200.
    pub fn start(answers: &[&str]) -> Self {
        Self::over(TcpListener::bind("127.0.0.1:0").unwrap(), answers, Duration::ZERO)
    }

    pub fn over(listener: TcpListener, answers: &[&str], takes: Duration) -> Self {
        let address = listener.local_addr().unwrap();
        let (sender, messages) = mpsc::channel();
        let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
        thread::spawn(move || {
            let mut answers = answers.into_iter();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let answer = answers.next().unwrap_or_else(|| "200 OK".into());
                let sender = sender.clone();
                thread::spawn(move || {
                    let message = Message::read(&mut stream);
                    let _ = sender.send(message);
                    thread::sleep(takes);
                    let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes());
                });
            }
        });
        Self { address, messages }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn next(&self) -> Message {
        self.messages.recv_timeout(WAIT_MAX).expect("no message came")
    }

    /// Checks that no message comes for a while.
    pub fn stays_silent(&self) {
        if let Ok(message) = self.messages.recv_timeout(Duration::from_millis(1_500)) {
            panic!("another message: {}", message.json());
        }
    }
}
