//! A socket between the front door and a child. It carries frames of limited length, each with descriptors.
//!
//! `SOCK_SEQPACKET` keeps frames whole, so no framing is needed: one send is one frame, with at most
//! [`FRAME_BYTES_MAX`] bytes and [`DESCRIPTORS_MAX`] descriptors. The sender of a frame is known by the
//! socket that it arrived on, never by a field in it.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Limit on the bytes of a frame. Larger data is sent as a file, by its descriptor.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Limit on the descriptors in a frame: the compiled component, the bundle and the assets of one version.
pub const DESCRIPTORS_MAX: usize = 2 + gannet_base::manifest::ASSETS_MAX;

/// Why sending or receiving failed.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other process has closed the socket or has ended.
    #[error("the other process closed the channel")]
    Closed,
    /// A frame is too long, or is not the expected message.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// A system call failed.
    #[error("channel: {0}")]
    Io(#[from] io::Error),
}

/// Returns a connected pair of frame sockets, close-on-exec and non-blocking.
pub fn frame_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Returns a connected pair of stream sockets, close-on-exec and non-blocking.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Sends one frame without waiting.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("the frame was truncated")) }
}

/// The bytes of a frame and the descriptors beside them.
pub type Frame = (Vec<u8>, Vec<OwnedFd>);

/// Receives one frame without waiting. Returns `None` if the other side has closed the socket.
pub fn receive_now(socket: BorrowedFd<'_>) -> Result<Option<Frame>, ChannelError> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(io::Error::from)?;
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(ChannelError::Malformed(format!("more than {FRAME_BYTES_MAX} bytes or too many descriptors")));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, descriptors)))
}

/// One end of a frame socket, for use inside a tokio runtime.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Wraps a non-blocking frame socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: the descriptor is owned by what it is registered in, and closed after it.
        Ok(Self { socket: unsafe { AsyncFd::register(socket) }? })
    }

    /// Sends a message with descriptors. Waits while the socket is full.
    pub async fn send<M: Serialize>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(|error| ChannelError::Malformed(error.to_string()))?;
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(ChannelError::Malformed(format!("{} bytes, limit is {FRAME_BYTES_MAX}", bytes.len())));
        }
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| send_now(socket.as_fd(), &bytes, descriptors));
        match sent.await {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(ChannelError::Closed)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a message without waiting. Fails if the socket is full.
    pub fn try_send<M: Serialize>(&self, message: &M) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(|error| ChannelError::Malformed(error.to_string()))?;
        Ok(send_now(self.socket.get_ref().as_fd(), &bytes, &[])?)
    }

    /// Receives a message and its descriptors.
    pub async fn receive<M: DeserializeOwned>(&self) -> Result<(M, Vec<OwnedFd>), ChannelError> {
        let received = self
            .socket
            .async_io(Interest::READABLE, |socket| match receive_now(socket.as_fd()) {
                Ok(frame) => Ok(Ok(frame)),
                Err(ChannelError::Io(error)) => Err(error),
                Err(other) => Ok(Err(other)),
            })
            .await;
        let frame = match received {
            Ok(frame) => frame?,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => return Err(error.into()),
        };
        let (bytes, descriptors) = frame.ok_or(ChannelError::Closed)?;
        let message = serde_json::from_slice(&bytes).map_err(|error| ChannelError::Malformed(error.to_string()))?;
        Ok((message, descriptors))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[tokio::test]
    async fn frames_and_descriptors_arrive_whole() {
        let (ours, theirs) = frame_pair().unwrap();
        let (ours, theirs) = (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        ours.send(&("hello", 7), &[file.as_fd()]).await.unwrap();
        let ((word, number), mut descriptors): ((String, u8), _) = theirs.receive().await.unwrap();
        assert_eq!((word.as_str(), number), ("hello", 7));
        let mut received = std::fs::File::from(descriptors.pop().unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
    }

    #[tokio::test]
    async fn a_frame_that_is_not_the_expected_message_is_malformed() {
        let (ours, theirs) = frame_pair().unwrap();
        send_now(ours.as_fd(), b"{not json", &[]).unwrap();
        let received = Channel::new(theirs).unwrap().receive::<u8>().await;
        assert!(matches!(received, Err(ChannelError::Malformed(_))));
    }

    #[tokio::test]
    async fn a_closed_peer_is_told_apart() {
        let (ours, theirs) = frame_pair().unwrap();
        drop(ours);
        let received = Channel::new(theirs).unwrap().receive::<u8>().await;
        assert!(matches!(received, Err(ChannelError::Closed)));
    }
}
