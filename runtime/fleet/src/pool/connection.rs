//! A connection to a worker: the front door's end of a hop. It carries one request at a time.
//!
//! ```text
//!  idle ──send──▶ head and first data ──▶ response head ──▶ parts of its body ──▶ idle
//!                  └ a body that goes on is sent by a task of its own, so that it never waits for the response ┘
//! ```
//!
//! The request's own task writes and reads. Dropping a connection in the middle closes the socket, which ends the
//! guest.

use crate::pool::request::{HopRequest, RequestBody};
use bytes::Bytes;
use gannet_base::hop::frames::Part;
use gannet_base::hop::heads::{ResponseHead, decode_response, decode_trailers};
use gannet_process::hop_socket::{Exchanges, HopError, HopReader, HopWriter, split};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// Shorter parts of a response are copied out of the buffer of the socket.
const COPIED_BYTES: usize = 2048;

/// A request without a response, because its worker ended or closed the connection, or because its own body was
/// refused.
#[derive(Debug)]
pub(crate) struct NoResponse {
    /// Whether a part of the request was sent.
    pub(crate) begun: bool,
}

/// A connection to a worker.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: HopReader,
    upload: Upload,
}

/// The direction in which requests are sent.
#[derive(Debug)]
enum Upload {
    /// Nothing is being sent.
    Idle(HopWriter),
    /// A task sends the body of a request. It returns the writer if it sent all of it.
    Running(AbortOnDrop),
    /// Sending failed or was dropped in the middle.
    Broken,
}

/// A task that sends a body. Dropping this ends it in the middle.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<Option<HopWriter>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Wraps the front door's end of a new hop.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let (reader, writer) = split(socket)?;
        Ok(Self { reader, upload: Upload::Idle(writer) })
    }

    /// Waits until the body of the last request was sent. Returns false if the connection cannot be used any more, because
    /// the worker has closed it or has sent what nobody asked for.
    pub(crate) async fn ready(&mut self) -> bool {
        if let Upload::Running(task) = &mut self.upload {
            let writer = (&mut task.0).await.ok().flatten();
            self.upload = writer.map_or(Upload::Broken, Upload::Idle);
        }
        let silent = std::future::poll_fn(|context| Poll::Ready(self.reader.poll_part(context).is_pending())).await;
        silent && matches!(self.upload, Upload::Idle(_))
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(
        &mut self,
        request: &mut HopRequest,
        exchanges: &Exchanges,
    ) -> Result<ResponseHead, NoResponse> {
        let _under_way = exchanges.begin();
        let Upload::Idle(mut writer) = std::mem::replace(&mut self.upload, Upload::Broken) else {
            return Err(NoResponse { begun: false });
        };
        let (first, last) = first_data(&mut request.body).await.ok_or(NoResponse { begun: false })?;
        if let Err(failed) = writer.send_head(&mut request.frame, first.clone(), last).await {
            if !failed.begun {
                request.body.put_back(Frame::data(first));
            }
            return Err(NoResponse { begun: failed.begun });
        }
        self.upload = if last {
            Upload::Idle(writer)
        } else {
            let body = std::mem::replace(&mut request.body, RequestBody::empty().0);
            Upload::Running(AbortOnDrop(tokio::spawn(send_rest(body, writer))))
        };
        match self.reader.message(exchanges, 1).await {
            Ok(Some(Part::Head(head))) => decode_response(head).map_err(|error| {
                tracing::warn!(%error, "a worker sent an invalid response");
                NoResponse { begun: true }
            }),
            Ok(_) => Err(NoResponse { begun: true }),
            Err(error) => {
                tracing::debug!(%error, "a connection to a worker ended");
                Err(NoResponse { begun: true })
            }
        }
    }

    /// Polls for the next part of the response's body. `None` is the end of the response.
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, HopError>> {
        self.reader.poll_part(context).map(|part| match part? {
            // A short part is copied, because it would keep the whole buffer of the socket for as long as it waits.
            Some(Part::Data(data)) if data.len() < COPIED_BYTES => Ok(Some(Frame::data(Bytes::copy_from_slice(&data)))),
            Some(Part::Data(data)) => Ok(Some(Frame::data(data))),
            Some(Part::Trailers(trailers)) => Ok(Some(Frame::trailers(decode_trailers(trailers)?))),
            Some(Part::End) => Ok(None),
            Some(Part::Head(_)) | None => Err(HopError::BrokenOff),
        })
    }

    /// Returns how many bytes of the response are still to come, if its last frame has begun.
    pub(crate) fn data_left(&self) -> Option<usize> {
        self.reader.data_left()
    }

    /// Takes the end of the response, if all of its data were read. Returns whether the connection can carry another
    /// request.
    pub(crate) fn take_end(&mut self) -> bool {
        self.reader.take_end()
    }
}

/// Returns the data that can be sent with the head, without waiting, and whether they are all. `None`: the body was
/// refused.
async fn first_data(body: &mut RequestBody) -> Option<(Bytes, bool)> {
    if body.is_end_stream() {
        return Some((Bytes::new(), true));
    }
    let polled = std::future::poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *body).poll_frame(context) {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        })
    });
    match polled.await {
        None => Some((Bytes::new(), false)),
        Some(None) => Some((Bytes::new(), true)),
        Some(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) => Some((data, body.is_end_stream())),
            Err(trailers) => {
                body.put_back(trailers);
                Some((Bytes::new(), false))
            }
        },
        Some(Some(Err(_))) => None,
    }
}

/// Sends the rest of a body. Returns the writer if the whole body was sent; dropping it ends the message in the middle.
async fn send_rest(mut body: RequestBody, mut writer: HopWriter) -> Option<HopWriter> {
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let data = match frame.ok()?.into_data() {
            Ok(data) => data,
            Err(frame) => {
                trailers = frame.into_trailers().ok();
                continue;
            }
        };
        let last = body.is_end_stream();
        writer.send_data(data, last).await.ok()?;
        if last {
            return Some(writer);
        }
    }
    writer.end_with(trailers.as_ref()).await.ok()?;
    Some(writer)
}
