//! Calls a guest through `wasi:http/incoming-handler` 0.2.

use crate::guest::GuestState;
use crate::worker::body_end::body_end;
use crate::worker::request_body::RequestBody;
use crate::worker::running_guest::GuestResponse;
use crate::worker::trap::Exited;
use http::{Method, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;

/// Calls the guest. Returns whether its instance may serve again: it has responded, and has not exited.
pub(super) async fn handle(
    instance: &Proxy,
    store: &mut Store<GuestState>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
) -> wasmtime::Result<bool> {
    let wants_body = request.method() != Method::HEAD;
    let is_https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
    let scheme = if is_https { Scheme::Https } else { Scheme::Http };
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let responded = Arc::new(AtomicBool::new(false));
    let responded_in_callback = Arc::clone(&responded);
    let (signal, end) = body_end();
    let outparam = store.data_mut().http().new_response_outparam_from_callback(move |response| {
        responded_in_callback.store(response.is_ok(), Ordering::Relaxed);
        let response = response.map(|response| signal.attach(response, wants_body));
        // The receiver was dropped if the deadline has passed.
        let _ = response_sender.send(response.map_err(|code| format!("{code:?}")));
    })?;
    let called = instance.wasi_http_incoming_handler().call_handle(&mut *store, request, outparam).await;
    let Err(error) = called else { return Ok(responded.load(Ordering::Relaxed)) };
    let Some(exit) = error.downcast_ref::<I32Exit>() else { return Err(error) };
    // An instance that has exited cannot be called again.
    Exited::check(exit.0, responded.load(Ordering::Relaxed), &end).await.map(|()| false)
}
