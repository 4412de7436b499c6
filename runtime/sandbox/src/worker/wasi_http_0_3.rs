//! Calls a guest through `wasi:http/service` 0.3, where the operator has enabled it. wasmtime calls its own support
//! experimental, so it is off by default.
//!
//! This is the whole adapter: the response that it hands over has the same type as in 0.2. Such a guest is never
//! reused.

use crate::guest::GuestState;
use crate::worker::body_end::body_end;
use crate::worker::request_body::RequestBody;
use crate::worker::running_guest::GuestResponse;
use crate::worker::trap::Exited;
use http::{Method, Request};
use http_body_util::BodyExt;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{WasiHttpView, p3};

/// Calls the guest, and runs its tasks until the body of its response has been read to its end and all of them have
/// ended.
pub(super) async fn handle(
    service: &Service,
    store: &mut Store<GuestState>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
) -> wasmtime::Result<()> {
    let wants_body = request.method() != Method::HEAD;
    // The second value reports how the transfer of the request's body ends. It is not needed: the guest has its own
    // future for that.
    let (request, _transferred) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let responded = AtomicBool::new(false);
    let (signal, end) = body_end();
    let ran = store
        .run_concurrent(async |accessor| -> wasmtime::Result<()> {
            let response = match service.handle(accessor, request).await? {
                Ok(response) => response,
                Err(code) => {
                    // The receiver was dropped if the deadline has passed.
                    let _ = response_sender.send(Err(format!("{code:?}")));
                    return Ok(());
                }
            };
            let response = accessor.with(|mut access| response.into_http(&mut access, async { Ok(()) }))?;
            let response = signal.attach(response.map(BodyExt::boxed_unsync), wants_body);
            responded.store(true, Ordering::Relaxed);
            let _ = response_sender.send(Ok(response));
            end.passed().await;
            // Tasks that it has spawned run on, as a guest of 0.2 does after its response.
            std::future::poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
            Ok(())
        })
        .await;
    let Err(error) = ran.flatten() else { return Ok(()) };
    let Some(exit) = error.downcast_ref::<I32Exit>() else { return Err(error) };
    Exited::check(exit.0, responded.load(Ordering::Relaxed), &end).await
}
