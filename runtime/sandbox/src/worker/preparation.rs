//! Makes the next instance of a version before its request arrives, where that takes long.
//!
//! Large components take a millisecond to instantiate. While a request runs, another thread makes the instance of the
//! next one. It serves one request like any other. That request pays for the CPU time of the preparation, so its bill
//! does not depend on whether its instance was prepared.
//!
//! A component may run code while it is instantiated. Nobody pays for an instance that no request gets, so there are
//! limits: [`CPU_MS_MAX`] for each, and a number of them for each version ([`crate::worker::preparation_limit`]). An instance that used its log, the GPU or outbound
//! HTTP is dropped, because those belong to a request. The next request then makes its own.

use crate::guest::GuestState;
use crate::worker::context::WorkerContext;
use crate::worker::cpu_time::{CpuMeter, MeteredFuture};
use crate::worker::guest_setup;
use crate::worker::idle_instances::IdleInstance;
use crate::worker::trap::CpuLimitReached;
use crate::worker::version::{Handler, LoadedVersion};
use gannet_base::manifest::INSTANCES_MAX;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Store, UpdateDeadline};

/// An instance that takes less time is made when its request arrives: handing over to another thread costs more.
const WORTHWHILE: Duration = Duration::from_micros(100);
/// Limit on the CPU time of one preparation. A version's own limit is often far longer.
const CPU_MS_MAX: u64 = 50;
/// Limit on the time of one preparation. Code may wait while it is instantiated.
const TIME_MAX: Duration = Duration::from_secs(1);
/// With fewer permits free, the worker is busy, and requests need them.
const PERMITS_LEFT_MIN: usize = INSTANCES_MAX as usize / 4;

/// Whether an instance took so long to make that the next one should be prepared. Its CPU time decides, because on a busy
/// machine every instance takes long. It is read only if the time on the clock was long too: reading it is slower.
pub(super) fn is_worthwhile(cpu: impl FnOnce() -> Duration, elapsed: Duration) -> bool {
    elapsed >= WORTHWHILE && cpu() >= WORTHWHILE
}

/// Begins to prepare the next instance of a version, unless it has one.
pub(super) fn prepare_next(worker: &Arc<WorkerContext>, version: &Arc<LoadedVersion>) {
    // Where instances are reused, few are made.
    if version.limits.instance_reuse > 1 || worker.idle_instances.has(version.key) {
        return;
    }
    let permits = &worker.instance_permits;
    if permits.available_permits() < PERMITS_LEFT_MIN || !version.preparation.begin() {
        return;
    }
    let (worker, version) = (Arc::clone(worker), Arc::clone(version));
    // Not a task of the runtime: it would run on the thread of the request that began it, before that request's end.
    tokio::task::spawn_blocking(move || {
        let instance = tokio::runtime::Handle::current().block_on(prepare(&worker, &version));
        version.preparation.end();
        if let Some(instance) = instance {
            worker.keep_idle(version.key, instance);
        }
    });
}

/// Makes an instance without a request. Returns none where that is not possible, and where it would delay a request.
async fn prepare(worker: &Arc<WorkerContext>, version: &LoadedVersion) -> Option<IdleInstance> {
    let permit = Arc::clone(&worker.instance_permits).try_acquire_owned().ok()?;
    let cpu = Arc::new(CpuMeter::default());
    let instantiated =
        MeteredFuture::new(instantiate(worker, version, &cpu), Arc::clone(&cpu), Arc::clone(&worker.epoch_ticker));
    let instantiated = tokio::time::timeout(TIME_MAX, instantiated).await;
    let (store, handler) = match instantiated {
        Ok(Ok(instance)) => instance,
        Ok(Err(error)) => {
            tracing::debug!(version = %version.key, error = format!("{error:#}"), "an instance could not be prepared");
            return None;
        }
        Err(_) => return None,
    };
    if store.data().needed_a_request() || store.data().memory.growth_refused {
        return None;
    }
    Some(IdleInstance { store, handler, requests_served: 0, unpaid_cpu: Duration::from_nanos(cpu.used_ns()), permit })
}

async fn instantiate(
    worker: &WorkerContext,
    version: &LoadedVersion,
    cpu: &Arc<CpuMeter>,
) -> wasmtime::Result<(Store<GuestState>, Handler)> {
    let mut store = Store::new(&worker.engine, guest_setup::new_guest(worker, version));
    store.limiter(|guest| &mut guest.memory);
    let cpu = Arc::clone(cpu);
    let limit_ms = version.limits.cpu_ms.min(CPU_MS_MAX);
    store.epoch_deadline_callback(move |_| {
        if cpu.used_now_ns() / 1_000_000 >= limit_ms {
            return Err(CpuLimitReached { limit_ms }.into());
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store.set_epoch_deadline(1);
    let handler = version.handler.instantiate(&mut store).await?;
    Ok((store, handler))
}
