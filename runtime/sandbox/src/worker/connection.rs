//! Serves the requests that arrive over one hop, one after the other.
//!
//! ```text
//!  head ▶ body whole ▶ guest runs, while the socket is watched ──▶ response ▶ next request
//!       └ body goes on ▶ guest runs, while the body is fed to it ┘
//!                          └ the front door closed the socket: the guest is dropped
//! ```
//!
//! The connection's own task polls the guest, first until there is a response, then inside the response's body. No
//! other task is woken, and dropping the future of the request is all it takes to cancel.

use crate::worker::context::WorkerContext;
use crate::worker::request;
use crate::worker::request_body::RequestBody;
use crate::worker::response::{self, HopResponse, ResponseBody};
use bytes::{Bytes, BytesMut};
use gannet_base::hop::frames::{FrameError, Part};
use gannet_base::hop::heads::{decode_request, decode_trailers, encode_response};
use gannet_process::hop_socket::{HopError, HopReader, HopWriter, SendError, split};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method};
use http_body::Frame;
use http_body_util::BodyExt;
use std::future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Why a connection ends in the middle of a request.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Hop(#[from] HopError),
    #[error("a head is due")]
    NoHead,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the front door closed the socket before the response")]
    Cancelled,
    #[error("the response broke off: {0}")]
    BrokenOff(String),
}

/// Serves a socket of the front door until it is closed.
pub(super) async fn serve(worker: Arc<WorkerContext>, socket: OwnedFd) {
    let Ok((mut reader, mut writer)) = split(socket) else { return };
    loop {
        match serve_next(&worker, &mut reader, &mut writer).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "a connection from the front door ended");
                return;
            }
        }
    }
}

/// Serves one request. Returns false if the socket was closed instead.
async fn serve_next(
    worker: &Arc<WorkerContext>,
    reader: &mut HopReader,
    writer: &mut HopWriter,
) -> Result<bool, ConnectionError> {
    let head = match reader.message(&worker.exchanges, 0).await? {
        Some(Part::Head(head)) => decode_request(head)?,
        Some(Part::Data(_) | Part::Trailers(_) | Part::End) => return Err(ConnectionError::NoHead),
        None => return Ok(false),
    };
    let _under_way = worker.exchanges.begin();
    let (id, wants_body) = (head.request, head.method != Method::HEAD);
    let complete = Arc::new(AtomicBool::new(false));
    let (body, feed) = match reader.data_left() {
        Some(length) => {
            let body = read_whole(reader, length).await?;
            complete.store(true, Ordering::Relaxed);
            (RequestBody::whole(body, Arc::clone(&complete)), None)
        }
        None => {
            let (sender, receiver) = mpsc::channel(1);
            (RequestBody::streamed(receiver, Arc::clone(&complete)), Some(sender))
        }
    };
    let response = request::serve(Arc::clone(worker), head, body, Arc::clone(&complete));
    let serving = async {
        let response = response.await;
        let report = response.head.report.clone();
        let sent = send(writer, response, wants_body).await;
        if let (Err(ConnectionError::Send(_)), Some(work)) = (&sent, report) {
            // The front door has closed the socket and waits for the receipt as a frame.
            let worker = Arc::clone(worker);
            tokio::spawn(async move { response::send_work(&worker, id, work).await });
        }
        sent
    };
    let watching = async {
        if let Some(feed) = feed {
            feed_body(reader, feed, &complete).await?;
        }
        // Nothing more is due, so what can be read is the end of the socket.
        reader.part().await?;
        Err::<future::Ready<()>, _>(ConnectionError::Cancelled)
    };
    tokio::select! {
        biased;
        sent = serving => sent?,
        cancelled = watching => drop(cancelled?),
    }
    // The rest of a body that the guest did not want.
    reader.skip_message().await?;
    Ok(true)
}

/// Reads a body that arrived with its head, or nearly so.
async fn read_whole(reader: &mut HopReader, length: usize) -> Result<Bytes, ConnectionError> {
    let mut joined = BytesMut::new();
    loop {
        match reader.part().await? {
            // One part, the usual case, is not copied.
            Some(Part::Data(data)) if data.len() == length => {
                reader.skip_message().await?;
                return Ok(data);
            }
            Some(Part::Data(data)) => joined.extend_from_slice(&data),
            Some(Part::End) => return Ok(joined.freeze()),
            Some(Part::Head(_) | Part::Trailers(_)) | None => return Err(HopError::BrokenOff.into()),
        }
    }
}

/// Passes a body on to the guest as fast as it reads it.
async fn feed_body(
    reader: &mut HopReader,
    feed: mpsc::Sender<Frame<Bytes>>,
    complete: &AtomicBool,
) -> Result<(), ConnectionError> {
    loop {
        let Ok(place) = feed.reserve().await else {
            // The guest does not want it. The front door must be able to finish sending it nevertheless.
            reader.skip_message().await?;
            complete.store(true, Ordering::Relaxed);
            return Ok(());
        };
        match reader.part().await? {
            Some(Part::Data(data)) => place.send(Frame::data(data)),
            Some(Part::Trailers(trailers)) => {
                let trailers = decode_trailers(trailers)?;
                // They end the body.
                complete.store(true, Ordering::Relaxed);
                place.send(Frame::trailers(trailers));
            }
            Some(Part::End) => {
                complete.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Some(Part::Head(_)) | None => return Err(HopError::BrokenOff.into()),
        }
    }
}

/// Sends a response, and polls the guest that makes its body. A body that HTTP does not allow is not sent: one for a
/// HEAD request (`wants_body` is false), or one beside status 204 or 304.
async fn send(writer: &mut HopWriter, response: HopResponse, wants_body: bool) -> Result<(), ConnectionError> {
    let HopResponse { mut head, body } = response;
    if !wants_body || !head.may_have_body() {
        // An empty body may only mean that the guest did not make one for HEAD.
        if let ResponseBody::Complete(data, _) = &body
            && head.may_have_body()
            && !data.is_empty()
            && !head.headers.contains_key(CONTENT_LENGTH)
        {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(data.len()));
        }
        return Ok(writer.send_head(&mut encode_response(&head), Bytes::new(), true).await?);
    }
    let mut encoded = encode_response(&head);
    let mut body = match body {
        ResponseBody::Complete(data, trailers) => {
            writer.send_head(&mut encoded, data, trailers.is_none()).await?;
            return match trailers {
                Some(trailers) => {
                    let ended = writer.end_with(Some(&trailers)).await;
                    Ok(ended.map_err(|error| SendError { error, begun: true })?)
                }
                None => Ok(()),
            };
        }
        ResponseBody::Streaming(body) => body,
    };
    writer.send_head(&mut encoded, Bytes::new(), false).await?;
    // Sent after the end of the body: until then the guest is not done, and dropping the body would end it.
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ConnectionError::BrokenOff(error.to_string()))?;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                trailers = frame.into_trailers().ok();
                continue;
            }
        };
        let last = body.bytes_left() == Some(0);
        writer.send_data(data, last).await?;
        if last {
            // Dropping the body lets the guest run on.
            return Ok(());
        }
    }
    Ok(writer.end_with(trailers.as_ref()).await.map_err(|error| SendError { error, begun: true })?)
}
