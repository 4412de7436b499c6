//! Makes the next instance of a version before its request arrives, where that takes long.
//!
//! Large components take a millisecond to instantiate. While a request runs, another thread makes the instance of the
//! next one. It serves one request like any other. That request pays for the CPU time of the preparation, so its bill
//! does not depend on whether its instance was prepared.
//!
//! A component may run code while it is instantiated. Nobody pays for an instance that no request gets, so there are
//! limits: [`CPU_MS_MAX`], [`TIME_MAX`] and [`MEMORY_BYTES_MAX`] for each, and CPU time for all of a version
//! ([`crate::worker::preparation_limit`]). An instance that used its log, the GPU or outbound HTTP is dropped, because
//! those belong to a request. The next request then makes its own.

use crate::guest::GuestState;
use crate::worker::context::WorkerContext;
use crate::worker::cpu_time::{CpuMeter, MeteredFuture};
use crate::worker::guest_setup;
use crate::worker::idle_instances::IdleInstance;
use crate::worker::trap::CpuLimitReached;
use crate::worker::version::{Handler, LoadedVersion};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Store, UpdateDeadline};

/// An instance that takes less time is made when its request arrives: handing over to another thread costs more.
const WORTHWHILE: Duration = Duration::from_micros(100);
/// Limit on the CPU time of one preparation. It is checked at each tick of the epoch, and at the end.
const CPU_MS_MAX: u64 = 50;
/// Limit on the time of one preparation. Code may wait while it is instantiated, and a request may want the permit.
const TIME_MAX: Duration = Duration::from_millis(200);
/// Limit on the linear memory of a prepared instance. It takes memory that the worker's requests may need.
const MEMORY_BYTES_MAX: usize = 128 << 20;

/// Whether an instance took so long to make that the next one should be prepared.
pub(super) fn is_worthwhile(took: Duration) -> bool {
    took >= WORTHWHILE
}

/// Begins to prepare the next instance of a version, unless it has one.
pub(super) fn prepare_next(worker: &Arc<WorkerContext>, version: &Arc<LoadedVersion>) {
    // Where instances are reused, few are made.
    if version.reuses_instances() || worker.idle_instances.has(version.key) {
        return;
    }
    let Some(permit) = worker.idle_instances.spare_permit(&worker.instance_permits) else { return };
    let Some(in_progress) = version.preparation.begin() else { return };
    let (worker, version) = (Arc::clone(worker), Arc::clone(version));
    // Not a task of the runtime: it would run on the thread of the request that began it, before that request's end.
    tokio::task::spawn_blocking(move || {
        if let Some(instance) = tokio::runtime::Handle::current().block_on(prepare(&worker, &version, permit)) {
            worker.keep_idle(&version, instance);
        }
        drop(in_progress);
    });
}

/// Makes an instance without a request. Returns none where that is not possible.
async fn prepare(
    worker: &Arc<WorkerContext>,
    version: &LoadedVersion,
    permit: OwnedSemaphorePermit,
) -> Option<IdleInstance> {
    let cpu = Arc::new(CpuMeter::default());
    let instantiation = instantiate(worker, version, &cpu);
    let metered = MeteredFuture::new(instantiation, Arc::clone(&cpu), Arc::clone(&worker.epoch_ticker));
    let instantiated = tokio::time::timeout(TIME_MAX, metered).await;
    let unpaid_cpu = Duration::from_nanos(cpu.used_ns());
    version.preparation.spent(unpaid_cpu);
    let (store, handler) = match instantiated {
        Ok(Ok(instance)) => instance,
        Ok(Err(error)) => {
            tracing::debug!(version = %version.key, error = format!("{error:#}"), "an instance could not be prepared");
            return None;
        }
        Err(_) => return None,
    };
    let guest = store.data();
    let is_clean = !guest.needed_a_request() && !guest.memory.growth_refused;
    (is_clean && unpaid_cpu <= Duration::from_millis(CPU_MS_MAX)).then_some(IdleInstance {
        store,
        handler,
        requests_served: 0,
        unpaid_cpu,
        permit,
    })
}

async fn instantiate(
    worker: &WorkerContext,
    version: &LoadedVersion,
    cpu: &Arc<CpuMeter>,
) -> wasmtime::Result<(Store<GuestState>, Handler)> {
    let mut store = Store::new(&worker.engine, guest_setup::new_guest(worker, version));
    store.limiter(|guest| &mut guest.memory);
    store.data_mut().memory.lower_limit(MEMORY_BYTES_MAX);
    let cpu = Arc::clone(cpu);
    let limit_ms = version.limits.cpu_ms.min(CPU_MS_MAX);
    store.epoch_deadline_callback(move |context| {
        if context.data().needed_a_request() {
            return Err(wasmtime::Error::msg("it needs a request"));
        }
        if cpu.used_now_ns() / 1_000_000 >= limit_ms {
            return Err(CpuLimitReached { setting: "limits.cpu_ms", limit_ms }.into());
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store.set_epoch_deadline(1);
    let handler = version.handler.instantiate(&mut store).await?;
    Ok((store, handler))
}
