//! A child's end of its lease socket: a thread reads what the arbiter says, and the GPU thread writes to it directly.

use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use gannet_host_gpu::ArbiterLink;
use gannet_process::channel::{receive_now, send_now};
use gannet_process::child::{DEVICE_LOST, leave};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What the arbiter may have said and the GPU thread was not told yet.
const TOLD_MAX: usize = 16;
/// How long the front door may take to read what is said.
const WRITE_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The wires of this process to the arbiter. Its socket comes first, then the file for notes.
pub fn link(socket: OwnedFd, notes: OwnedFd) -> io::Result<ArbiterLink> {
    let socket = Arc::new(socket);
    let (tells, messages) = mpsc::channel(TOLD_MAX);
    let theirs = Arc::clone(&socket);
    // Ends with the socket, which ends with the front door, which ends this process.
    std::thread::Builder::new().name("lease".into()).spawn(move || while listen(theirs.as_fd(), &tells) {})?;
    let send = Box::new(move |message: HolderMessage| {
        if let Err(error) = say(socket.as_fd(), message) {
            // Without a word to the arbiter this process must not go on using the GPU.
            tracing::error!(%error, "the arbiter cannot be reached");
            leave(1);
        }
    });
    let on_loss = Arc::new(|| leave(DEVICE_LOST));
    Ok(ArbiterLink { messages, send, on_loss, notes: Some(notes.into()) })
}

fn wait(socket: BorrowedFd<'_>, flags: PollFlags, longest: Option<&Timespec>) -> io::Result<bool> {
    match rustix::event::poll(&mut [PollFd::new(&socket, flags)], longest) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn say(socket: BorrowedFd<'_>, message: HolderMessage) -> io::Result<()> {
    let bytes = serde_json::to_vec(&message)?;
    loop {
        match send_now(socket, &bytes, &[]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(socket, PollFlags::OUT, Some(&WRITE_MAX))? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            other => return other,
        }
    }
}

/// Passes one message on. False when there will be no more.
fn listen(socket: BorrowedFd<'_>, tells: &mpsc::Sender<ArbiterMessage>) -> bool {
    if wait(socket, PollFlags::IN, None).is_err() {
        return false;
    }
    match receive_now(socket) {
        Ok(Some((bytes, _))) => match serde_json::from_slice(&bytes) {
            Ok(told) => tells.blocking_send(told).is_ok(),
            Err(error) => {
                tracing::error!(%error, "the arbiter said what is no message");
                false
            }
        },
        Ok(None) => false,
        Err(gannet_process::channel::ChannelError::Io(error)) => error.kind() == io::ErrorKind::WouldBlock,
        Err(_) => false,
    }
}
