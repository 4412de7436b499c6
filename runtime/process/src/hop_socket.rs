//! One end of a hop: a stream socket that carries messages of [`frames`](gannet_base::hop::frames), one at a time in
//! each direction.
//!
//! Back-pressure is the socket's own. Dropping the writer ends the direction that it writes in, and dropping both
//! halves closes the socket, which is how a request or a response is cancelled.

use bytes::{Buf, Bytes, BytesMut};
use gannet_base::hop::frames::{DATA_BYTES_MAX, Decoder, FrameError, Part, data_prefix, finish};
use gannet_base::hop::heads::encode_trailers;
use http::HeaderMap;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::io::poll_read_buf;

/// Bytes that one read can take. Most messages are shorter.
const READ_BYTES: usize = 16 * 1024;
/// How long a wait polls the socket before it sleeps.
const POLL_MAX: Duration = Duration::from_micros(200);

/// Why the other end cannot be read any more.
#[derive(Debug, thiserror::Error)]
pub enum HopError {
    /// It closed the socket in the middle of a message.
    #[error("the connection broke off in the middle of a message")]
    BrokenOff,
    /// It sent what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A system call failed.
    #[error("the hop: {0}")]
    Io(#[from] io::Error),
}

/// Counts the exchanges of a process that are under way, over all hops.
#[derive(Debug, Default)]
pub struct Exchanges(AtomicUsize);

/// An exchange that is under way. Dropping it ends the count.
#[derive(Debug)]
pub struct ExchangeGuard<'a>(&'a Exchanges);

impl Exchanges {
    /// Counts an exchange until the guard is dropped.
    pub fn begin(&self) -> ExchangeGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        ExchangeGuard(self)
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for ExchangeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Splits a connected, non-blocking stream socket into its two directions. Call it inside a tokio runtime.
pub fn split(socket: OwnedFd) -> io::Result<(HopReader, HopWriter)> {
    let stream = UnixStream::from_std(std::os::unix::net::UnixStream::from(socket))?;
    let (read, write) = stream.into_split();
    let reader = HopReader { half: read, arrived: BytesMut::new(), decoder: Decoder::default(), was_prompt: false };
    Ok((reader, HopWriter { half: write }))
}

/// The direction in which messages arrive.
#[derive(Debug)]
pub struct HopReader {
    half: OwnedReadHalf,
    arrived: BytesMut,
    decoder: Decoder,
    /// Whether the last wait for a message was so short that polling through it would have paid.
    was_prompt: bool,
}

impl HopReader {
    /// Polls for the next part of a message. `None`: the other end closed the socket between two messages.
    pub fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Part>, HopError>> {
        loop {
            if let Some(part) = self.decoder.next(&mut self.arrived)? {
                return Poll::Ready(Ok(Some(part)));
            }
            if ready!(self.poll_read(context))? == 0 {
                let clean = self.arrived.is_empty() && self.decoder.is_between_messages();
                return Poll::Ready(if clean { Ok(None) } else { Err(HopError::BrokenOff) });
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.arrived.reserve(READ_BYTES);
        poll_read_buf(Pin::new(&mut self.half), context, &mut self.arrived)
    }

    /// Waits for the next part of a message.
    pub async fn part(&mut self) -> Result<Option<Part>, HopError> {
        std::future::poll_fn(|context| self.poll_part(context)).await
    }

    /// Waits for the next message, and returns its first part. It polls the socket for a moment before it sleeps, if
    /// the message before came that soon and no more than `most` exchanges are under way.
    ///
    /// Waking a thread on an idle core takes some 40 µs, more than a small request costs on this side, and with one
    /// request in flight at a time both sides pay that for each. While more are under way nothing is gained, because
    /// the threads are awake.
    pub async fn message(&mut self, exchanges: &Exchanges, most: usize) -> Result<Option<Part>, HopError> {
        let began = Instant::now();
        while self.was_prompt && exchanges.count() <= most && began.elapsed() < POLL_MAX {
            if let Poll::Ready(part) = std::future::poll_fn(|context| Poll::Ready(self.poll_part(context))).await {
                return part;
            }
            // Others go first: the processes that wait for this core, and then the tasks and sockets of this thread.
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
        let part = self.part().await;
        self.was_prompt = began.elapsed() < POLL_MAX;
        part
    }

    /// Returns how many bytes of the message's data are still to come, if its last frame has begun.
    pub fn data_left(&self) -> Option<usize> {
        self.decoder.data_left()
    }

    /// Takes the end of the message, if all of its data were read. Returns whether another message can follow.
    pub fn take_end(&mut self) -> bool {
        self.decoder.take_end()
    }

    /// Reads and discards the rest of the message.
    pub async fn skip_message(&mut self) -> Result<(), HopError> {
        while !self.decoder.is_between_messages() {
            if self.part().await?.is_none() {
                return Err(HopError::BrokenOff);
            }
        }
        Ok(())
    }
}

/// The direction in which messages are sent.
#[derive(Debug)]
pub struct HopWriter {
    half: OwnedWriteHalf,
}

/// A message that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("a message could not be sent: {error}")]
pub struct SendError {
    /// Why.
    pub error: io::Error,
    /// Whether a part of it was sent.
    pub begun: bool,
}

impl HopWriter {
    /// Sends an encoded head and the first data. `last` says that no data follow.
    pub async fn send_head(&mut self, head: &mut BytesMut, mut data: Bytes, last: bool) -> Result<(), SendError> {
        let first = data.split_to(data.len().min(DATA_BYTES_MAX));
        let all = data.is_empty();
        finish(head, first.len(), last && all);
        self.write(head, &first).await?;
        if all {
            return Ok(());
        }
        self.send_data(data, last).await.map_err(|error| SendError { error, begun: true })
    }

    /// Sends more data of the message.
    pub async fn send_data(&mut self, mut data: Bytes, last: bool) -> io::Result<()> {
        loop {
            let part = data.split_to(data.len().min(DATA_BYTES_MAX));
            let all = data.is_empty();
            self.write(&data_prefix(part.len(), last && all), &part).await.map_err(|failed| failed.error)?;
            if all {
                return Ok(());
            }
        }
    }

    /// Ends a message all of whose data were sent.
    pub async fn end(&mut self) -> io::Result<()> {
        self.send_data(Bytes::new(), true).await
    }

    /// Ends a message all of whose data were sent, with trailers if there are any.
    pub async fn end_with(&mut self, trailers: Option<&HeaderMap>) -> io::Result<()> {
        match trailers {
            Some(trailers) => self.write(&encode_trailers(trailers), &[]).await.map_err(|failed| failed.error),
            None => self.end().await,
        }
    }

    async fn write(&mut self, head: &[u8], data: &[u8]) -> Result<(), SendError> {
        let (mut head, mut data, mut begun) = (head, data, false);
        while !head.is_empty() || !data.is_empty() {
            let written = match self.half.write_vectored(&[IoSlice::new(head), IoSlice::new(data)]).await {
                Ok(0) => return Err(SendError { error: io::ErrorKind::WriteZero.into(), begun }),
                Ok(written) => written,
                Err(error) => return Err(SendError { error, begun }),
            };
            begun = true;
            let of_head = written.min(head.len());
            head.advance(of_head);
            data.advance(written - of_head);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channel::stream_pair;
    use gannet_base::hop::heads::{ResponseHead, decode_response, encode_response};
    use http::StatusCode;

    fn head() -> BytesMut {
        let headers = HeaderMap::new();
        encode_response(&ResponseHead { status: StatusCode::OK, failed: false, report: None, headers })
    }

    #[tokio::test]
    async fn a_message_longer_than_the_socket_arrives_whole_and_the_next_after_it() {
        let (ours, theirs) = stream_pair().unwrap();
        let ((_back, mut writer), (mut reader, _writer)) = (split(ours).unwrap(), split(theirs).unwrap());
        let long: Vec<u8> = (0..3 * DATA_BYTES_MAX + 7).map(|at| (at % 251) as u8).collect();
        let sent = long.clone();
        let sending = tokio::spawn(async move {
            writer.send_head(&mut head(), Bytes::from(sent), false).await.unwrap();
            writer.end().await.unwrap();
            writer.send_head(&mut head(), Bytes::new(), true).await.unwrap();
        });
        let mut messages = Vec::new();
        while let Some(part) = reader.part().await.unwrap() {
            match part {
                Part::Head(head) => messages.push((decode_response(head).unwrap().status, Vec::new())),
                Part::Data(data) => messages.last_mut().unwrap().1.extend_from_slice(&data),
                Part::Trailers(_) | Part::End => {}
            }
        }
        sending.await.unwrap();
        assert_eq!(messages, [(StatusCode::OK, long), (StatusCode::OK, Vec::new())]);
    }

    #[tokio::test]
    async fn a_message_that_breaks_off_is_an_error_and_what_was_never_begun_is_known() {
        let (ours, theirs) = stream_pair().unwrap();
        let ((back, mut writer), (mut reader, other)) = (split(ours).unwrap(), split(theirs).unwrap());
        writer.send_head(&mut head(), Bytes::from_static(b"some"), false).await.unwrap();
        drop((back, writer));
        assert!(matches!(reader.part().await, Ok(Some(Part::Head(_)))));
        assert!(matches!(reader.part().await, Ok(Some(Part::Data(data))) if data == "some"));
        assert!(matches!(reader.part().await, Err(HopError::BrokenOff)));
        let mut other = other;
        let failed = other.send_head(&mut head(), Bytes::new(), true).await.unwrap_err();
        assert!(!failed.begun, "{failed}");
    }

    #[tokio::test]
    async fn a_wait_polls_after_a_prompt_message_and_sleeps_after_a_late_one() {
        let (ours, theirs) = stream_pair().unwrap();
        let ((_back, mut writer), (mut reader, _writer)) = (split(ours).unwrap(), split(theirs).unwrap());
        let exchanges = Exchanges::default();
        writer.send_head(&mut head(), Bytes::new(), true).await.unwrap();
        assert!(matches!(reader.message(&exchanges, 0).await, Ok(Some(Part::Head(_)))));
        assert!(reader.was_prompt && reader.take_end());
        // While another exchange is under way it does not poll, but gets its message nevertheless.
        let other = exchanges.begin();
        writer.send_head(&mut head(), Bytes::new(), true).await.unwrap();
        assert!(matches!(reader.message(&exchanges, 0).await, Ok(Some(Part::Head(_)))));
        assert!(reader.was_prompt && reader.take_end());
        drop(other);
        // The delay is what is tested, so there is nothing else to wait for.
        let late = async {
            tokio::time::sleep(2 * POLL_MAX).await;
            writer.send_head(&mut head(), Bytes::new(), true).await.unwrap();
        };
        let (message, ()) = tokio::join!(reader.message(&exchanges, 0), late);
        assert!(matches!(message, Ok(Some(Part::Head(_)))) && !reader.was_prompt);
        assert_eq!(exchanges.count(), 0);
    }
}
