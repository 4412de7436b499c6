//! The access log: one line of JSON for each request, written when the last byte of its response has left. A line
//! contains no query, no key and no body.
//!
//! A thread writes the lines, which reach it through a bounded queue. When the queue is full, lines are dropped and
//! counted, because no request may wait for a log.

use bytes::Bytes;
use gannet_base::body::{BrokenOff, ResponseBody};
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_base::refusal::Blame;
use gannet_fleet::inbound::ServedFunction;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Capacity of the queue, in lines.
const WAITING_MAX: usize = 16_384;
/// How often the thread checks that the file exists. If it was moved away, the thread creates a new one.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A line of the log.
#[derive(Debug, Serialize)]
struct AccessLogEntry {
    time: jiff::Timestamp,
    id: RequestId,
    tenant: Option<TenantName>,
    function: Option<FunctionName>,
    method: String,
    status: u16,
    bytes: u64,
    ms: u64,
    code: Option<String>,
    fault: Option<Blame>,
    /// Number of lines dropped before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// Sends lines to the thread that writes the log.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<AccessLogEntry>,
    lost: AtomicU64,
}

impl AccessLog {
    /// Starts the thread. It writes to a file, or to standard error if the path is `stderr`.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let (lines, inbox) = sync_channel(WAITING_MAX);
        let path = (path != Path::new("stderr")).then(|| path.to_owned());
        // Opened here, so that a path that cannot be written fails the start of the server.
        let file = path.as_deref().map(open_file).transpose()?;
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(path, file, &inbox))?;
        Ok(Arc::new(Self { lines, lost: AtomicU64::new(0) }))
    }
}

fn open_file(path: &Path) -> io::Result<BufWriter<File>> {
    Ok(BufWriter::new(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?))
}

fn write(path: Option<PathBuf>, mut file: Option<BufWriter<File>>, inbox: &Receiver<AccessLogEntry>) {
    let mut looked = Instant::now();
    loop {
        let entry = match inbox.recv_timeout(LOOK_EVERY) {
            Ok(entry) => Some(entry),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut text = Vec::new();
        for entry in entry.into_iter().chain(inbox.try_iter()).take(WAITING_MAX) {
            if serde_json::to_writer(&mut text, &entry).is_ok() {
                text.push(b'\n');
            }
        }
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            if let Some(path) = path.as_deref().filter(|path| !path.exists()) {
                let opened = open_file(path);
                file = opened.inspect_err(|error| tracing::error!(%error, "the access log cannot be opened")).ok();
            }
        }
        let written = match &mut file {
            Some(file) => file.write_all(&text).and_then(|()| file.flush()),
            None => io::stderr().write_all(&text),
        };
        if let Err(error) = written {
            tracing::error!(%error, "the access log cannot be written");
        }
    }
}

/// A request to be logged. Dropping it sends its line: with the response's body, or before there is a response, if the
/// client leaves.
#[derive(Debug)]
pub struct LoggedRequest {
    log: Arc<AccessLog>,
    entry: Option<AccessLogEntry>,
    began: Instant,
    served: ServedFunction,
}

impl LoggedRequest {
    /// Begins the line of a request. Until it is answered, the line says that the client has left.
    pub fn new(
        log: &Arc<AccessLog>,
        id: RequestId,
        (method, served, began): (String, ServedFunction, Instant),
    ) -> Self {
        let entry = AccessLogEntry {
            time: jiff::Timestamp::now(),
            id,
            tenant: None,
            function: None,
            method,
            status: 0,
            bytes: 0,
            ms: 0,
            code: Some("client_closed".into()),
            fault: Some(Blame::Caller),
            lost: None,
        };
        Self { log: Arc::clone(log), entry: Some(entry), began, served }
    }

    /// Records the head of the response, which is about to be sent.
    pub fn answered(&mut self, status: u16, refused: Option<(&'static str, Blame)>) {
        if let Some(entry) = &mut self.entry {
            (entry.time, entry.status) = (jiff::Timestamp::now(), status);
            entry.code = refused.map(|(code, _)| code.to_owned());
            entry.fault = refused.map(|(_, blame)| blame);
        }
    }

    /// Wraps the response's body, so that the line is sent when the body is dropped.
    pub fn watch(self, body: ResponseBody) -> ResponseBody {
        LoggedBody { body, watched: self }.boxed_unsync()
    }

    /// Counts bytes of the body that were sent.
    fn sent(&mut self, bytes: usize) {
        if let Some(entry) = &mut self.entry {
            entry.bytes = entry.bytes.saturating_add(bytes as u64);
        }
    }

    /// Records that the body broke off.
    fn broke_off(&mut self) {
        if let Some(entry) = &mut self.entry {
            (entry.code, entry.fault) = (Some("response_broken_off".into()), Some(Blame::Function));
        }
    }
}

/// A response's body that counts its bytes for the access log.
struct LoggedBody {
    body: ResponseBody,
    watched: LoggedRequest,
}

impl Body for LoggedBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.watched.sent(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(Some(Err(_))) => self.watched.broke_off(),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LoggedRequest {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        if let Some((tenant, function)) = self.served.get() {
            (entry.tenant, entry.function) = (Some(tenant.clone()), Some(function.clone()));
        }
        entry.ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let lost = self.log.lost.swap(0, Ordering::Relaxed);
        entry.lost = (lost > 0).then_some(lost);
        if self.log.lines.try_send(entry).is_err() {
            self.log.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}
