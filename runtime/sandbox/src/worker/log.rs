//! A guest's stdout and stderr: cut into lines, sent to the front door, never waited for.
//!
//! When the front door does not keep up, lines are dropped and counted. A request has a cap on its
//! log text; past it one last line says so.

use bytes::Bytes;
use gannet_base::hop::{LogFrame, LogStream, VersionKey};
use gannet_base::names::RequestId;
use gannet_process::channel::send_now;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// What stands in a log for a secret.
const MASK: &str = "***";
/// What a guest may write in one call.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The socket that lines leave by.
#[derive(Debug)]
pub(crate) struct Sink {
    socket: OwnedFd,
    lost: AtomicU64,
}

impl Sink {
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

/// Where one request's log goes.
#[derive(Debug)]
pub(crate) struct RequestLog {
    pub(crate) sink: Arc<Sink>,
    pub(crate) version: VersionKey,
    /// It changes where an instance serves several.
    request: Mutex<RequestId>,
    pub(crate) bytes_max: u64,
    written: AtomicU64,
    /// What must not be seen in a log.
    pub(crate) secrets: Arc<[String]>,
}

impl RequestLog {
    pub(crate) fn new(
        sink: &Arc<Sink>,
        version: VersionKey,
        request: RequestId,
        bytes_max: u64,
        secrets: &Arc<[String]>,
    ) -> Arc<Self> {
        Arc::new(Self {
            sink: Arc::clone(sink),
            version,
            request: Mutex::new(request),
            bytes_max,
            written: AtomicU64::new(0),
            secrets: Arc::clone(secrets),
        })
    }

    /// What is written from now on belongs to another request.
    pub(crate) fn begin_again(&self, request: RequestId) {
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = request;
        self.written.store(0, Ordering::Relaxed);
    }

    /// Writes the platform's own words about a request, line by line.
    pub(crate) fn lines(&self, stream: LogStream, text: &str) {
        for line in text.lines() {
            self.line(stream, line.as_bytes());
        }
    }

    /// The text without secrets.
    pub(crate) fn mask(&self, mut text: String) -> String {
        for secret in self.secrets.iter() {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), MASK);
            }
        }
        text
    }

    fn line(&self, stream: LogStream, line: &[u8]) {
        let before = self.written.fetch_add(line.len() as u64 + 1, Ordering::Relaxed);
        if before > self.bytes_max {
            return;
        }
        let text = if before + line.len() as u64 > self.bytes_max {
            // Later lines see a count past the limit and are dropped above.
            self.written.fetch_max(self.bytes_max + 1, Ordering::Relaxed);
            format!("log cut: limits.log_kib = {}", self.bytes_max >> 10)
        } else {
            self.mask(String::from_utf8_lossy(line).into_owned())
        };
        let request = *self.request.lock().unwrap_or_else(PoisonError::into_inner);
        self.sink.send(LogFrame { version: self.version, request, stream, text, lost: 0 });
    }
}

/// One of the two streams of a request.
#[derive(Debug, Clone)]
pub(crate) struct LogPipe {
    pub(crate) log: Arc<RequestLog>,
    pub(crate) stream: LogStream,
}

impl IsTerminal for LogPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogPipe {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.writer())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.writer())
    }
}

impl LogPipe {
    fn writer(&self) -> LogWriter {
        LogWriter { pipe: self.clone(), partial: Vec::new() }
    }
}

struct LogWriter {
    pipe: LogPipe,
    partial: Vec<u8>,
}

impl LogWriter {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                self.partial.extend_from_slice(part);
                if self.partial.ends_with(b"\n") || self.partial.len() >= LINE_BYTES_MAX {
                    self.emit();
                }
            }
        }
    }

    fn emit(&mut self) {
        let line = std::mem::take(&mut self.partial);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        self.pipe.log.line(self.pipe.stream, line);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.emit();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogWriter {
    async fn ready(&mut self) {}
}

impl OutputStream for LogWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl tokio::io::AsyncWrite for LogWriter {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
