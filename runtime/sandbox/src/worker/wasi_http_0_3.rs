//! Calls a guest through `wasi:http/service` 0.3, where the operator has enabled it. wasmtime calls its own support
//! experimental, so it is off by default.
//!
//! This is the whole adapter: the response that it hands over has the same type as in 0.2. Such a guest is never
//! reused.

use crate::guest::GuestState;
use crate::worker::request_body::RequestBody;
use crate::worker::running_guest::GuestResponse;
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{Error, WasiHttpView, p3};

/// Calls the guest, and runs its tasks until the body of its response has been read to its end.
pub(super) async fn handle(
    service: &Service,
    store: &mut Store<GuestState>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
) -> wasmtime::Result<()> {
    // The second value reports how the transfer of the request's body ends. It is not needed: the guest has its own
    // future for that.
    let (request, _transferred) = p3::Request::from_http(store.data_mut().http().hooks, request);
    store
        .run_concurrent(async move |accessor| -> wasmtime::Result<()> {
            let response = match service.handle(accessor, request).await? {
                Ok(response) => response,
                Err(code) => {
                    // The receiver was dropped if the deadline has passed.
                    let _ = response_sender.send(Err(format!("{code:?}")));
                    return Ok(());
                }
            };
            let response = accessor.with(|mut access| response.into_http(&mut access, async { Ok(()) }))?;
            let (end, ended) = oneshot::channel();
            let response = response.map(|body| EndSignalBody { body, end: Some(end) }.boxed_unsync());
            let _ = response_sender.send(Ok(response));
            // An error means that the body was dropped. That ends the guest too.
            let _ = ended.await;
            Ok(())
        })
        .await?
}

/// A body that signals when it was read to its end.
struct EndSignalBody {
    body: HyperOutgoingBody,
    end: Option<oneshot::Sender<()>>,
}

impl Body for EndSignalBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = polled
            && let Some(end) = self.end.take()
        {
            let _ = end.send(());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // The signal needs the poll that returns `None`, so that poll must not be skipped.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
