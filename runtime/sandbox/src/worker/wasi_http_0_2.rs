//! Calls a guest through `wasi:http/incoming-handler` 0.2, in a fresh instance or in one that has served before.

use crate::guest::GuestState;
use crate::worker::request_body::RequestBody;
use crate::worker::running_guest::GuestResponse;
use crate::worker::usage::RequestUsage;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

/// Instantiates the component, unless `instance` is given, and calls it. Returns the instance, and whether the guest
/// has responded.
pub(super) async fn handle(
    pre: &ProxyPre<GuestState>,
    instance: Option<Proxy>,
    store: &mut Store<GuestState>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
    usage: &RequestUsage,
) -> wasmtime::Result<(Proxy, bool)> {
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let responded = Arc::new(AtomicBool::new(false));
    let responded_in_callback = Arc::clone(&responded);
    let outparam = store.data_mut().http().new_response_outparam_from_callback(move |response| {
        responded_in_callback.store(response.is_ok(), Ordering::Relaxed);
        // The receiver was dropped if the deadline has passed.
        let _ = response_sender.send(response.map_err(|code| format!("{code:?}")));
    })?;
    let instance = match instance {
        Some(instance) => instance,
        None => pre.instantiate_async(&mut *store).await?,
    };
    usage.guest_starts();
    instance.wasi_http_incoming_handler().call_handle(&mut *store, request, outparam).await?;
    Ok((instance, responded.load(Ordering::Relaxed)))
}
