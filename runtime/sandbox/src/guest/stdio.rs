//! A guest's stdout and stderr, as WASI streams that cut text into lines for the log.
//!
//! Writing always succeeds at once, so a guest never waits for its log.

use crate::guest::log::RequestLog;
use bytes::Bytes;
use gannet_base::hop::LogStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Limit on the bytes that a guest may write in one call.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// A guest's stdout or stderr.
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
    /// Bytes after the last line break.
    partial: Vec<u8>,
}

impl LogWriter {
    fn split_lines(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                self.partial.extend_from_slice(part);
                if self.partial.ends_with(b"\n") || self.partial.len() >= LINE_BYTES_MAX {
                    self.write_partial();
                }
            }
        }
    }

    fn write_partial(&mut self) {
        let line = std::mem::take(&mut self.partial);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        self.pipe.log.write_line(self.pipe.stream, line);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.write_partial();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogWriter {
    async fn ready(&mut self) {}
}

impl OutputStream for LogWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.split_lines(&bytes);
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
        self.split_lines(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
