//! Calls a guest through `wasi:http/incoming-handler` 0.2.

use crate::guest::GuestState;
use crate::worker::request_body::RequestBody;
use crate::worker::running_guest::GuestResponse;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;

/// Calls the guest. Returns whether it has responded.
pub(super) async fn handle(
    instance: &Proxy,
    store: &mut Store<GuestState>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
) -> wasmtime::Result<bool> {
    let is_https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
    let scheme = if is_https { Scheme::Https } else { Scheme::Http };
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let responded = Arc::new(AtomicBool::new(false));
    let responded_in_callback = Arc::clone(&responded);
    let outparam = store.data_mut().http().new_response_outparam_from_callback(move |response| {
        responded_in_callback.store(response.is_ok(), Ordering::Relaxed);
        // The receiver was dropped if the deadline has passed.
        let _ = response_sender.send(response.map_err(|code| format!("{code:?}")));
    })?;
    instance.wasi_http_incoming_handler().call_handle(&mut *store, request, outparam).await?;
    Ok(responded.load(Ordering::Relaxed))
}
