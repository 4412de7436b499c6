//! Runs the instance of one request. The instance is fresh, metered and limited, and it is dropped when it is done. It
//! may have been prepared. Where the manifest allows reuse, an instance that has served before is used instead, and kept
//! for the next request.
//!
//! An instance holds a permit for as long as it has memory, so wasmtime's pool never runs out.

use crate::guest::GuestState;
use crate::worker::context::RequestContext;
use crate::worker::cpu_time::MeteredFuture;
use crate::worker::idle_instances::IdleInstance;
use crate::worker::request_body::RequestBody;
use crate::worker::running_guest::{GuestOutcome, GuestResponse, RunningGuest};
use crate::worker::trap::CpuLimitReached;
use crate::worker::version::Handler;
use crate::worker::{guest_setup, preparation, trap, wasi_http_0_2, wasi_http_0_3};
use gannet_base::hop::{Fault, LogStream};
use http::Request;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{Store, UpdateDeadline};

/// The parts of an instance that was idle, without its store.
struct ReadyInstance {
    handler: Handler,
    requests_served: u64,
    unpaid_cpu: Duration,
    permit: OwnedSemaphorePermit,
}

/// A store, and the permit for the memory that its instance has. The order of the fields frees the memory before the
/// permit, however the request ends: whoever gets the permit next finds memory in wasmtime's pool.
struct PermittedStore<S> {
    store: S,
    permit: Option<OwnedSemaphorePermit>,
}

impl<S> PermittedStore<S> {
    /// Returns the store with another permit in place of its own. Without another one, the store is dropped.
    fn exchange(self, other: Option<OwnedSemaphorePermit>) -> Option<(S, OwnedSemaphorePermit)> {
        other.map(|other| (self.store, other))
    }

    /// Returns the store with its own permit.
    fn keep(self) -> Option<(S, OwnedSemaphorePermit)> {
        self.permit.map(|permit| (self.store, permit))
    }
}

/// Starts a guest on a request. It runs while its future is polled.
pub(super) fn start(context: RequestContext, request: Request<RequestBody>) -> RunningGuest {
    let (mut store, ready) = store(&context);
    guest_setup::begin_request(&context, store.data_mut());
    limit_cpu_time(&context, &mut store);
    let (cpu, ticker) = (Arc::clone(&context.usage.cpu), Arc::clone(&context.worker.epoch_ticker));
    let (response_sender, response) = oneshot::channel();
    let future = run(context, store, ready, request, response_sender);
    RunningGuest { future: Box::pin(MeteredFuture::new(future, cpu, ticker)), response }
}

/// Takes the store of an idle instance, or makes a new one.
fn store(context: &RequestContext) -> (Store<GuestState>, Option<ReadyInstance>) {
    let (worker, version) = (&context.worker, &context.version);
    match worker.idle_instances.take(version.key) {
        Some(IdleInstance { store, handler, requests_served, unpaid_cpu, permit }) => {
            version.preparation.paid(unpaid_cpu);
            (store, Some(ReadyInstance { handler, requests_served, unpaid_cpu, permit }))
        }
        None => {
            let mut store = Store::new(&worker.engine, guest_setup::new_guest(worker, version));
            store.limiter(|guest| &mut guest.memory);
            (store, None)
        }
    }
}

/// At each tick of the epoch, ends the guest if it has used its CPU time; otherwise lets it yield to its neighbours.
fn limit_cpu_time(context: &RequestContext, store: &mut Store<GuestState>) {
    let (cpu, limits) = (Arc::clone(&context.usage.cpu), context.limits);
    store.epoch_deadline_callback(move |_| {
        if cpu.used_now_ns() / 1_000_000 >= limits.cpu_ms {
            return Err(CpuLimitReached { setting: limits.cpu_setting(), limit_ms: limits.cpu_ms }.into());
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store.set_epoch_deadline(1);
}

async fn run(
    context: RequestContext,
    store: Store<GuestState>,
    ready: Option<ReadyInstance>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
) -> GuestOutcome {
    let RequestContext { worker, version, usage, .. } = &context;
    let (ready, requests_served, permit) = match ready {
        Some(ReadyInstance { handler, requests_served, unpaid_cpu, permit }) => {
            usage.cpu.add(unpaid_cpu);
            (Some((handler, unpaid_cpu)), requests_served, Some(permit))
        }
        // It does not wait: the front door sends no more calls at once than there are permits.
        None if context.is_call => (None, 0, Arc::clone(&worker.call_permits).acquire_owned().await.ok()),
        None => (None, 0, worker.idle_instances.acquire_permit(&worker.instance_permits).await),
    };
    let mut held = PermittedStore { store, permit };
    let result = serve(&context, ready, &mut held.store, request, response_sender).await;
    if let Err(error) = &result {
        // Dropping the store cancels its work on the GPU, so that nobody waits for that.
        return Err(report(error, held.store.data()));
    }
    let drained = usage.drain().await;
    if let Some(log) = held.store.data().log() {
        log.end_request();
    }
    let requests_served = requests_served + 1;
    match result {
        // A guest that leaves work on the GPU, does not respond, exits or was refused memory does not serve again.
        Ok((handler @ Handler::Proxy(_), true))
            if requests_served < version.limits.instance_reuse
                && drained
                && !held.store.data().memory.growth_refused =>
        {
            // An idle instance must not take what calls need.
            let kept = if context.is_call {
                held.exchange(worker.idle_instances.spare_permit(&worker.instance_permits))
            } else {
                held.keep()
            };
            if let Some((store, permit)) = kept {
                let unpaid_cpu = Duration::ZERO;
                worker.keep_idle(version, IdleInstance { store, handler, requests_served, unpaid_cpu, permit });
            }
        }
        _ => {}
    }
    Ok(())
}

/// Calls the guest, in a new instance unless one is `ready` (with the CPU time of its preparation). Returns the
/// instance, and whether it may serve again.
async fn serve(
    context: &RequestContext,
    ready: Option<(Handler, Duration)>,
    store: &mut Store<GuestState>,
    request: Request<RequestBody>,
    response_sender: oneshot::Sender<GuestResponse>,
) -> wasmtime::Result<(Handler, bool)> {
    let RequestContext { worker, version, usage, .. } = context;
    let (handler, worthwhile) = match ready {
        Some((handler, took)) => (handler, preparation::is_worthwhile(took)),
        None => {
            let began = Instant::now();
            let handler = version.handler.instantiate(store).await?;
            // On a busy machine every instance takes long, so the CPU time decides. Reading it is slower.
            let worthwhile = preparation::is_worthwhile(began.elapsed()) && {
                let took = Duration::from_nanos(usage.cpu.used_now_ns());
                version.preparation.made_by_request(took);
                preparation::is_worthwhile(took)
            };
            (handler, worthwhile)
        }
    };
    usage.guest_starts();
    if worthwhile {
        preparation::prepare_next(worker, version);
    }
    let may_serve_again = match &handler {
        Handler::Proxy(proxy) => wasi_http_0_2::handle(proxy, store, request, response_sender).await?,
        Handler::Service(service) => {
            wasi_http_0_3::handle(service, store, request, response_sender).await?;
            true
        }
    };
    Ok((handler, may_serve_again))
}

/// Logs a trap and returns its fault. The log has the backtrace, which is for the function's author.
fn report(error: &wasmtime::Error, guest: &GuestState) -> Fault {
    if let Some(log) = guest.log() {
        log.write_lines(LogStream::Stderr, &format!("{error:#}"));
    }
    trap::fault_of(error, guest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    /// Notes, when it is dropped, how many permits are free.
    struct Memory(Arc<Semaphore>, Arc<AtomicUsize>);

    impl Drop for Memory {
        fn drop(&mut self) {
            self.1.store(self.0.available_permits(), Ordering::Relaxed);
        }
    }

    #[test]
    fn the_memory_of_an_instance_is_freed_before_its_permit() {
        let (permits, spare, free) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)), Arc::default());
        let held = || {
            Arc::<AtomicUsize>::clone(&free).store(9, Ordering::Relaxed);
            let permit = Some(Arc::clone(&permits).try_acquire_owned().unwrap());
            PermittedStore { store: Memory(Arc::clone(&permits), Arc::clone(&free)), permit }
        };
        for end in [drop, |held: PermittedStore<Memory>| assert!(held.exchange(None).is_none())] {
            end(held());
            assert_eq!((free.load(Ordering::Relaxed), permits.available_permits()), (0, 1));
        }
        // A call's instance that is kept leaves the call's permit.
        let other = Arc::clone(&spare).try_acquire_owned().unwrap();
        let kept = held().exchange(Some(other)).unwrap();
        assert_eq!((free.load(Ordering::Relaxed), permits.available_permits(), spare.available_permits()), (9, 1, 0));
        drop(kept);
        let kept = held().keep().unwrap();
        assert_eq!((free.load(Ordering::Relaxed), permits.available_permits()), (9, 0));
        drop(kept.0);
        assert_eq!(free.load(Ordering::Relaxed), 0);
    }
}
