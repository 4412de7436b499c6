//! Runs the instance of one request. The instance is fresh, metered and limited, and it is dropped when it is done.
//! Where the manifest allows reuse, an instance that has served before is used instead, and kept for the next request.
//!
//! An instance holds a permit for as long as it has memory, so wasmtime's pool never runs out.

use crate::guest::GuestState;
use crate::worker::context::RequestContext;
use crate::worker::cpu_time::MeteredFuture;
use crate::worker::idle_instances::IdleInstance;
use crate::worker::request_body::RequestBody;
use crate::worker::running_guest::{GuestOutcome, GuestResponse, RunningGuest};
use crate::worker::trap::CpuLimitReached;
use crate::worker::version::HandlerPre;
use crate::worker::{guest_setup, trap, wasi_http_0_2, wasi_http_0_3};
use gannet_base::hop::{Fault, LogStream};
use http::Request;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi_http::p2::bindings::Proxy;

/// The parts of a reused instance, without its store.
struct ReusedInstance {
    proxy: Proxy,
    requests_served: u64,
    permit: OwnedSemaphorePermit,
}

/// Starts a guest on a request. It runs while its future is polled.
pub(super) fn start(context: RequestContext, request: Request<RequestBody>) -> RunningGuest {
    let (mut store, reused) = store(&context);
    limit_cpu_time(&context, &mut store);
    let (cpu, ticker) = (Arc::clone(&context.usage.cpu), Arc::clone(&context.worker.epoch_ticker));
    let (response_sender, response) = oneshot::channel();
    let future = run(context, store, reused, request, response_sender);
    RunningGuest { future: Box::pin(MeteredFuture::new(future, cpu, ticker)), response }
}

/// Takes the store of an idle instance, or makes a new one.
fn store(context: &RequestContext) -> (Store<GuestState>, Option<ReusedInstance>) {
    let (worker, version) = (&context.worker, &context.version);
    let idle = (version.limits.instance_reuse > 1).then(|| worker.idle_instances.take(version.key)).flatten();
    match idle {
        Some(IdleInstance { mut store, proxy, requests_served, permit }) => {
            guest_setup::reuse_guest(context, store.data_mut());
            (store, Some(ReusedInstance { proxy, requests_served, permit }))
        }
        None => {
            let mut store = Store::new(&worker.engine, guest_setup::new_guest(context));
            store.limiter(|guest| &mut guest.memory);
            (store, None)
        }
    }
}

/// At each tick of the epoch, ends the guest if it has used its CPU time; otherwise lets it yield to its neighbours.
fn limit_cpu_time(context: &RequestContext, store: &mut Store<GuestState>) {
    let (cpu, limit_ms) = (Arc::clone(&context.usage.cpu), context.version.limits.cpu_ms);
    store.epoch_deadline_callback(move |_| {
        if cpu.used_now_ns() / 1_000_000 >= limit_ms {
            return Err(CpuLimitReached { limit_ms }.into());
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store.set_epoch_deadline(1);
}

async fn run(
    context: RequestContext,
    store: Store<GuestState>,
    reused: Option<ReusedInstance>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
) -> GuestOutcome {
    let RequestContext { worker, version, usage, .. } = &context;
    let (proxy, requests_served, permit) = match reused {
        Some(ReusedInstance { proxy, requests_served, permit }) => (Some(proxy), requests_served, Some(permit)),
        None => (None, 0, worker.idle_instances.acquire_permit(&worker.instance_permits).await),
    };
    // Declared after the permit, so that a cancelled guest's memory is freed before the permit too.
    let mut store = store;
    let result = match &version.handler {
        HandlerPre::Proxy(pre) => {
            wasi_http_0_2::handle(pre, proxy, &mut store, request, response_sender, usage).await.map(Some)
        }
        HandlerPre::Service(pre) => {
            wasi_http_0_3::handle(pre, &mut store, request, response_sender, usage).await.map(|()| None)
        }
    };
    let drained = usage.drain().await;
    let requests_served = requests_served + 1;
    let outcome = match result {
        // A guest that leaves work on the GPU, does not respond or was refused memory does not serve again.
        Ok(Some((proxy, responded)))
            if requests_served < version.limits.instance_reuse
                && drained
                && responded
                && !store.data().memory.growth_refused =>
        {
            if let Some(permit) = permit {
                worker.idle_instances.keep(version.key, IdleInstance { store, proxy, requests_served, permit });
            }
            return Ok(());
        }
        Ok(_) => Ok(()),
        Err(error) if trap::is_clean_exit(&error) => Ok(()),
        Err(error) => Err(report(&error, store.data())),
    };
    drop(store);
    drop(permit);
    outcome
}

/// Logs a trap and returns its fault. The log has the backtrace, which is for the function's author.
fn report(error: &wasmtime::Error, guest: &GuestState) -> Fault {
    if let Some(log) = guest.log() {
        log.write_lines(LogStream::Stderr, &format!("{error:#}"));
    }
    trap::fault_of(error, guest)
}
