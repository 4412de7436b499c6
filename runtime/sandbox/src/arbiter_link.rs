//! A child's link to the arbiter, which decides which process may use a GPU.
//!
//! In: the child's lease socket. Out: the [`ArbiterLink`] of the GPU thread. A thread reads the arbiter's messages; the
//! GPU thread writes to the socket itself, so that a lease never waits for a request. A child that cannot reach the
//! arbiter must not use the GPU any more, so it exits.

use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use gannet_host_gpu::ArbiterLink;
use gannet_process::channel::{ChannelError, receive_now, send_now};
use gannet_process::child::{EXIT_DEVICE_LOST, exit_now};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Capacity of the channel to the GPU thread.
const MESSAGES_MAX: usize = 16;
/// How long a message may wait for room in the socket.
const SEND_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Starts the thread that reads `socket`. `notes` is the memory file in which the GPU thread records
/// the kernels that are running.
pub(crate) fn open(socket: OwnedFd, notes: OwnedFd) -> io::Result<ArbiterLink> {
    let socket = Arc::new(socket);
    let (sender, messages) = mpsc::channel(MESSAGES_MAX);
    let reader = Arc::clone(&socket);
    // The thread ends when the socket is closed. That happens when the front door exits, and then this process exits
    // too.
    std::thread::Builder::new()
        .name("lease".into())
        .spawn(move || while forward_message(reader.as_fd(), &sender) {})?;
    let send = Box::new(move |message: HolderMessage| {
        if let Err(error) = send_message(socket.as_fd(), message) {
            tracing::error!(%error, "the arbiter cannot be reached");
            exit_now(1);
        }
    });
    let on_loss = Arc::new(|| exit_now(EXIT_DEVICE_LOST));
    Ok(ArbiterLink { messages, send, on_loss, notes: Some(notes.into()) })
}

/// Waits until the socket is ready. Returns false if `timeout` has passed.
fn wait(socket: BorrowedFd<'_>, flags: PollFlags, timeout: Option<&Timespec>) -> io::Result<bool> {
    match rustix::event::poll(&mut [PollFd::new(&socket, flags)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn send_message(socket: BorrowedFd<'_>, message: HolderMessage) -> io::Result<()> {
    let bytes = serde_json::to_vec(&message)?;
    loop {
        match send_now(socket, &bytes, &[]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(socket, PollFlags::OUT, Some(&SEND_MAX))? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            result => return result,
        }
    }
}

/// Passes one message of the arbiter to the GPU thread. Returns false if no more messages can come.
fn forward_message(socket: BorrowedFd<'_>, sender: &mpsc::Sender<ArbiterMessage>) -> bool {
    if wait(socket, PollFlags::IN, None).is_err() {
        return false;
    }
    match receive_now(socket) {
        Ok(Some((bytes, _))) => match serde_json::from_slice(&bytes) {
            Ok(message) => sender.blocking_send(message).is_ok(),
            Err(error) => {
                tracing::error!(%error, "the arbiter sent an invalid message");
                false
            }
        },
        Ok(None) => false,
        Err(ChannelError::Io(error)) => error.kind() == io::ErrorKind::WouldBlock,
        Err(_) => false,
    }
}
