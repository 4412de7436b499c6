//! The log of a request: sends lines to the front door.
//!
//! It must never wait for the front door: if the socket is full, lines are dropped and counted. Secrets are masked
//! here. The log text of a request is limited; one last line says that the limit was reached.

use crate::guest::early_use::EarlyUse;
use gannet_base::hop::{LogFrame, LogStream, VersionKey};
use gannet_base::names::RequestId;
use gannet_process::channel::send_now;
use memchr::memmem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Replaces a secret in a log.
const MASK: &str = "***";
/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// The worker's log socket.
#[derive(Debug)]
pub(crate) struct LogSink {
    socket: OwnedFd,
    /// Lines that were dropped and not reported yet.
    lost: AtomicU64,
}

impl LogSink {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, lost: AtomicU64::new(0) }
    }

    fn send(&self, mut frame: LogFrame) {
        frame.lost = self.lost.load(Ordering::Relaxed);
        let sent = serde_json::to_vec(&frame).map(|bytes| send_now(self.socket.as_fd(), &bytes, &[]));
        match sent {
            Ok(Ok(())) => {
                self.lost.fetch_sub(frame.lost, Ordering::Relaxed);
            }
            _ => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The log of one request, or of one request after another if they share an instance. It belongs to no request while its
/// instance is prepared: lines are dropped then, and their guest must not be used.
#[derive(Debug)]
pub(crate) struct RequestLog {
    sink: Arc<LogSink>,
    version: VersionKey,
    request: Mutex<Option<RequestId>>,
    early_use: EarlyUse,
    bytes_max: u64,
    written: AtomicU64,
    /// Values that must not appear in a log.
    secrets: Arc<[String]>,
    /// Length of the longest of them.
    secret_bytes_max: usize,
    /// The bytes of stdout and of stderr after the last line break. All writers of a stream share them.
    partial: Mutex<[Vec<u8>; 2]>,
}

impl RequestLog {
    pub(crate) fn new(
        sink: &Arc<LogSink>,
        version: VersionKey,
        bytes_max: u64,
        secrets: &Arc<[String]>,
        early_use: EarlyUse,
    ) -> Arc<Self> {
        Arc::new(Self {
            sink: Arc::clone(sink),
            version,
            request: Mutex::default(),
            early_use,
            bytes_max,
            written: AtomicU64::new(0),
            secrets: Arc::clone(secrets),
            secret_bytes_max: secrets.iter().map(String::len).max().unwrap_or(0),
            partial: Mutex::default(),
        })
    }

    /// Attributes all further lines to `request`, and starts to count its log text from zero.
    pub(crate) fn begin_request(&self, request: RequestId) {
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
        self.written.store(0, Ordering::Relaxed);
    }

    /// Writes a message of Gannet itself, line by line.
    pub(crate) fn write_lines(&self, stream: LogStream, text: &str) {
        for line in text.lines() {
            self.write_line(stream, line.as_bytes());
        }
    }

    /// Replaces the secrets in a text.
    pub(crate) fn mask_secrets(&self, mut text: String) -> String {
        for secret in self.secrets.iter() {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), MASK);
            }
        }
        text
    }

    /// Writes text of the guest. What follows the last line break waits for its end, or for that of the request.
    pub(super) fn write(&self, stream: LogStream, bytes: &[u8]) {
        if !bytes.is_empty() && self.request.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.early_use.record();
            return;
        }
        // Beyond the limit nothing is written, so nothing is searched for secrets.
        if self.written.load(Ordering::Relaxed) > self.bytes_max {
            return;
        }
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let [out, err] = &mut *partial;
        let partial = if stream == LogStream::Stdout { out } else { err };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                partial.extend_from_slice(part);
                self.cut_long(stream, partial);
                if let Some(line) = partial.strip_suffix(b"\n") {
                    self.write_line(stream, line);
                    partial.clear();
                }
            }
        }
    }

    /// Writes the beginning of a line that is too long to wait for its end. A secret is not divided: what is complete is
    /// masked first, and one that is not complete yet begins in the last bytes, which stay.
    fn cut_long(&self, stream: LogStream, partial: &mut Vec<u8>) {
        let is_long = |text: &[u8]| text.len() > LINE_BYTES_MAX + self.secret_bytes_max;
        while is_long(partial) {
            *partial = self.mask_bytes(std::mem::take(partial));
            if is_long(partial) {
                let rest = partial.split_off(character_start(partial, LINE_BYTES_MAX));
                self.write_line(stream, partial);
                *partial = rest;
            }
        }
    }

    /// Writes what waits for the end of its line: it belongs to the request that ends.
    pub(crate) fn end_request(&self) {
        let partial = std::mem::take(&mut *self.partial.lock().unwrap_or_else(PoisonError::into_inner));
        for (stream, line) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(partial) {
            if !line.is_empty() {
                self.write_line(stream, &line);
            }
        }
    }

    /// Replaces the secrets in bytes of a guest.
    fn mask_bytes(&self, text: Vec<u8>) -> Vec<u8> {
        let secrets = self.secrets.iter().map(|secret| secret.as_bytes()).filter(|secret| !secret.is_empty());
        secrets.fold(text, |text, secret| {
            // Most lines have none.
            let Some(first) = memmem::find(&text, secret) else { return text };
            let (mut masked, mut from) = (Vec::with_capacity(text.len()), 0);
            for at in std::iter::once(first).chain(memmem::find_iter(&text, secret).skip(1)) {
                masked.extend_from_slice(text.get(from..at).unwrap_or_default());
                masked.extend_from_slice(MASK.as_bytes());
                from = at + secret.len();
            }
            masked.extend_from_slice(text.get(from..).unwrap_or_default());
            masked
        })
    }

    /// Writes one line of the guest.
    fn write_line(&self, stream: LogStream, line: &[u8]) {
        let Some(request) = *self.request.lock().unwrap_or_else(PoisonError::into_inner) else {
            self.early_use.record();
            return;
        };
        let before = self.written.fetch_add(line.len() as u64 + 1, Ordering::Relaxed);
        if before > self.bytes_max {
            return;
        }
        let text = if before + line.len() as u64 > self.bytes_max {
            // Later lines find a count beyond the limit and are dropped above.
            self.written.fetch_max(self.bytes_max + 1, Ordering::Relaxed);
            format!("log cut: limits.log_kib = {}", self.bytes_max >> 10)
        } else {
            self.mask_secrets(String::from_utf8_lossy(line).into_owned())
        };
        // A frame holds a limited number of bytes.
        let mut rest = text.as_str();
        loop {
            let (now, later) = rest.split_at(character_start(rest.as_bytes(), LINE_BYTES_MAX.min(rest.len())));
            self.sink.send(LogFrame { version: self.version, request, stream, text: now.to_owned(), lost: 0 });
            if later.is_empty() {
                return;
            }
            rest = later;
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        // The guest was ended in the middle of a line.
        self.end_request();
    }
}

/// Returns the start of the character at `at`, so that a cut there divides none.
fn character_start(text: &[u8], at: usize) -> usize {
    let is_start = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
    (at.saturating_sub(3)..=at).rev().find(is_start).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_wherever_a_long_line_is_cut() {
        let (ours, theirs) = gannet_process::channel::frame_pair().unwrap();
        let secrets: Arc<[String]> = vec!["very-secret-value".to_owned()].into();
        let log = RequestLog::new(&Arc::new(LogSink::new(ours)), 1, 1 << 20, &secrets, EarlyUse::default());
        log.begin_request(RequestId::new());
        let mut seen = String::new();
        let mut said = |line: String| {
            for piece in line.as_bytes().chunks(7) {
                log.write(LogStream::Stdout, piece);
            }
            // The socket holds a few lines only.
            while let Ok(Some(frame)) = gannet_process::channel::receive_now(theirs.as_fd()) {
                seen.push_str(&String::from_utf8_lossy(&frame.0));
            }
        };
        for before in 8_160..8_200 {
            let (x, y) = ("x".repeat(before), "y".repeat(100));
            said(format!("{x}very-secret-value{y}\n"));
            // Masking the first makes the text shorter, just before the cut.
            said(format!("very-secret-value{x}very-secret-value{y}very-secret-value{}\n", "z".repeat(9_000)));
            log.begin_request(RequestId::new());
        }
        // A mask may be divided.
        assert_eq!(seen.matches("*").count(), 3 * 4 * 40);
        assert!(!seen.contains("secret") && !seen.contains("very") && !seen.contains("value"), "in parts");
    }

    #[test]
    fn a_cut_divides_no_character() {
        let text = "aä€😀".as_bytes();
        let starts: Vec<usize> = (0..=text.len()).map(|at| character_start(text, at)).collect();
        assert_eq!(starts, [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10]);
        assert_eq!(character_start(&[0x80; 9], 8), 8, "no text at all");
    }
}
