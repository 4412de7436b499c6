//! `wasi:http/service` 0.3: the second way to call a guest, where the operator has enabled it. wasmtime calls its
//! own support experimental, so it is off by default.

use crate::worker::guest::Guest;
use crate::worker::received::Received;
use crate::worker::usage::{Answered, RequestUsage};
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{Error, WasiHttpView, p3};

/// Instantiates and calls the guest, and runs its tasks until its answer's body has been taken.
pub(super) async fn run(
    pre: &ServicePre<Guest>,
    store: &mut Store<Guest>,
    request: Request<Received>,
    answer: oneshot::Sender<Answered>,
    usage: &RequestUsage,
) -> wasmtime::Result<()> {
    let service = pre.instantiate_async(&mut *store).await?;
    usage.started();
    // How the sending of the request's body ends is the guest's to see, in its own future.
    let (request, _sent) = p3::Request::from_http(store.data_mut().http().hooks, request);
    store
        .run_concurrent(async move |accessor| -> wasmtime::Result<()> {
            let response = match service.handle(accessor, request).await? {
                Ok(response) => response,
                Err(code) => {
                    // The receiver is gone when the deadline has passed.
                    let _ = answer.send(Err(format!("{code:?}")));
                    return Ok(());
                }
            };
            let response = accessor.with(|mut access| response.into_http(&mut access, async { Ok(()) }))?;
            let (taken, ended) = oneshot::channel();
            let response = response.map(|body| Watched { body, taken: Some(taken) }.boxed_unsync());
            let _ = answer.send(Ok(response));
            // Fails when the body is dropped, which ends the guest just as well.
            let _ = ended.await;
            Ok(())
        })
        .await?
}

/// A body that tells when it has ended.
struct Watched {
    body: HyperOutgoingBody,
    taken: Option<oneshot::Sender<()>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = polled
            && let Some(taken) = self.taken.take()
        {
            let _ = taken.send(());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // Only the poll that answers `None` tells the guest that its body was taken.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
