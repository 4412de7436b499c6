//! Closes a connection whose client sends nothing at first, or stops reading in the middle of a response. A client that
//! stops reading holds permits, an instance and perhaps GPU memory. A connection is not closed while its client still
//! sends: it would not get the response. [`LineEnds`] checks the bytes that the client sends.

use super::line_ends::{END_OF_HEAD, LineEnds};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a write to a client may make no progress.
const STALL_MAX: Duration = Duration::from_secs(60);

/// How long a client may take to begin its first request.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// Length of the HTTP/2 preface, which distinguishes HTTP/2 from HTTP/1.
const PREFACE_BYTES: usize = 24;

/// How long a closed connection is read from at most, how long without any bytes, and how many bytes. A client that is
/// still sending would lose the response if the connection were reset.
const LINGER_MAX: Duration = Duration::from_secs(10);
const LINGER_QUIET_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 << 20;

/// The end of a connection: our side is closed, and the client's is read until it closes too.
struct Lingering {
    longest: Pin<Box<Sleep>>,
    quiet: Pin<Box<Sleep>>,
    left: usize,
}

/// A client's stream with both timeouts.
pub(super) struct StallGuard<S> {
    lingering: Option<Lingering>,
    stream: S,
    stalled: Option<Pin<Box<Sleep>>>,
    line_ends: LineEnds,
    /// Bytes still to be read after those of the client: they complete a head that is refused.
    added: &'static [u8],
    /// Runs until the first bytes have come. Before that, hyper does not know the protocol and applies no timeout of
    /// its own.
    silent: Option<Pin<Box<Sleep>>>,
}

impl<S> StallGuard<S> {
    pub(super) fn new(stream: S) -> Self {
        let silent = Some(Box::pin(tokio::time::sleep(SILENT_MAX)));
        Self { lingering: None, stream, stalled: None, line_ends: LineEnds::default(), added: &[], silent }
    }

    fn timed<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_MAX)));
        if stalled.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.added.is_empty() {
            let (now, later) = self.added.split_at(self.added.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.added = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.line_ends.pass(buffer.filled_mut().get_mut(before..).unwrap_or_default()) {
            self.added = END_OF_HEAD;
        }
        if buffer.filled().len() >= PREFACE_BYTES || (read.is_ready() && self.silent.is_none()) {
            self.silent = None;
            return read;
        }
        if let Some(silent) = &mut self.silent
            && read.is_pending()
            && silent.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent nothing")));
        }
        read
    }
}

impl<S: AsyncRead + Unpin> StallGuard<S> {
    /// Reads and drops what the client still sends, until it closes the connection too or a limit is reached.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { stream, lingering, .. } = self;
        let lingering = lingering.get_or_insert_with(|| Lingering {
            longest: Box::pin(tokio::time::sleep(LINGER_MAX)),
            quiet: Box::pin(tokio::time::sleep(LINGER_QUIET_MAX)),
            left: LINGER_BYTES_MAX,
        });
        let mut bytes = [const { MaybeUninit::uninit() }; 8 * 1024];
        loop {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    match lingering.left.checked_sub(buffer.filled().len()) {
                        Some(left) => lingering.left = left,
                        None => return Poll::Ready(()),
                    }
                    lingering.quiet.as_mut().reset(Instant::now() + LINGER_QUIET_MAX);
                    if lingering.longest.as_mut().poll(context).is_ready() {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if lingering.longest.as_mut().poll(context).is_ready() || lingering.quiet.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.timed(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.timed(shut, context))?;
        }
        self.poll_linger(context).map(Ok)
    }
}
