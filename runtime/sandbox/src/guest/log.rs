//! The log of a request: sends lines to the front door.
//!
//! It must never wait for the front door: if the socket is full, lines are dropped and counted. Secrets are masked
//! here. The log text of a request is limited; one last line says that the limit was reached.

use crate::guest::early_use::EarlyUse;
use gannet_base::hop::{LogFrame, LogStream, VersionKey};
use gannet_base::names::RequestId;
use gannet_process::channel::send_now;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Replaces a secret in a log.
const MASK: &str = "***";

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

    /// Writes one line of the guest.
    pub(super) fn write_line(&self, stream: LogStream, line: &[u8]) {
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
        self.sink.send(LogFrame { version: self.version, request, stream, text, lost: 0 });
    }
}
