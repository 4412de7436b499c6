//! The access log: one line of JSON for each request, when its last byte has left. No query, no key, no body.
//!
//! Lines go through a bounded queue to a thread; when it is full they are counted and left out, because no request waits for
//! a log.

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

/// Lines that may wait.
const WAITING_MAX: usize = 16_384;
/// How often the file is looked for anew, so that it can be moved away.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A line.
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
    /// Lines left out before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<AccessLogEntry>,
    lost: AtomicU64,
}

impl AccessLog {
    /// Writes to a file, or to standard error if the path is `stderr`.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let (lines, inbox) = sync_channel(WAITING_MAX);
        let path = (path != Path::new("stderr")).then(|| path.to_owned());
        // Now, so that a path that cannot be written is told at the start.
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

/// A request that will be a line of the log when this is dropped: with its response's body.
#[derive(Debug)]
pub struct LoggedRequest {
    log: Arc<AccessLog>,
    entry: Option<AccessLogEntry>,
    began: Instant,
    served: ServedFunction,
}

impl LoggedRequest {
    /// A request whose response is about to leave.
    pub fn new(
        log: &Arc<AccessLog>,
        id: RequestId,
        (method, served, began): (String, ServedFunction, Instant),
        status: u16,
        refused: Option<(&'static str, Blame)>,
    ) -> Self {
        let entry = AccessLogEntry {
            time: jiff::Timestamp::now(),
            id,
            tenant: None,
            function: None,
            method,
            status,
            bytes: 0,
            ms: 0,
            code: refused.map(|(code, _)| code.to_owned()),
            fault: refused.map(|(_, blame)| blame),
            lost: None,
        };
        Self { log: Arc::clone(log), entry: Some(entry), began, served }
    }

    /// The response's body, whose end writes the line.
    pub fn watch(self, body: ResponseBody) -> ResponseBody {
        LoggedBody { body, watched: self }.boxed_unsync()
    }

    /// Bytes of the body that have left.
    fn sent(&mut self, bytes: usize) {
        if let Some(entry) = &mut self.entry {
            entry.bytes = entry.bytes.saturating_add(bytes as u64);
        }
    }

    /// The body broke off.
    fn broke_off(&mut self) {
        if let Some(entry) = &mut self.entry {
            (entry.code, entry.fault) = (Some("response_broken_off".into()), Some(Blame::Function));
        }
    }
}

/// A response's body on its way to a client that the access log will name.
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
