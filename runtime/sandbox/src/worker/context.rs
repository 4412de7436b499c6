//! [`WorkerContext`], which all requests of a worker process share, and [`RequestContext`], which belongs to one
//! request.
//!
//! The worker's context is made once, at startup. It owns its parts, and none of them may hold a reference to it: a
//! part that needs another part gets that one passed in.

use crate::guest::GuestState;
use crate::guest::log::LogSink;
use crate::guest::outbound::OutboundConnection;
use crate::worker::driver_cache::DriverCacheFiles;
use crate::worker::epoch_ticker::EpochTicker;
use crate::worker::idle_instances::{IdleInstance, IdleInstances};
use crate::worker::request_limits::RequestLimits;
use crate::worker::running_requests::RunningRequests;
use crate::worker::usage::RequestUsage;
use crate::worker::version::LoadedVersion;
use gannet_base::hop::VersionKey;
use gannet_base::names::RequestId;
use gannet_host_gpu::Device;
use gannet_process::channel::Channel;
use gannet_process::hop_socket::Exchanges;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Linker;

/// Everything that the requests of this process share.
pub(super) struct WorkerContext {
    pub(super) engine: Engine,
    pub(super) epoch_ticker: Arc<EpochTicker>,
    pub(super) linker: Linker<GuestState>,
    /// The device, or why there is none.
    pub(super) device: Result<Arc<Device>, gannet_host_gpu::Error>,
    /// The requests that are being served.
    pub(super) exchanges: Exchanges,
    /// The requests that run, for the front door.
    pub(super) running: Arc<RunningRequests>,
    pub(super) versions: Mutex<HashMap<VersionKey, Arc<LoadedVersion>>>,
    /// One permit for each instance that may exist at once. wasmtime's pool has room for all of them and for those of
    /// calls, so it never runs out.
    pub(super) instance_permits: Arc<Semaphore>,
    /// The same for instances that serve calls by other functions. The callers hold their own meanwhile, so calls must
    /// not need those.
    pub(super) call_permits: Arc<Semaphore>,
    pub(super) idle_instances: Arc<IdleInstances>,
    pub(super) control: Channel,
    pub(super) log_sink: Arc<LogSink>,
    pub(super) outbound: Arc<OutboundConnection>,
    pub(super) driver_cache: DriverCacheFiles,
}

impl WorkerContext {
    /// Locks the map of loaded versions.
    pub(super) fn versions(&self) -> MutexGuard<'_, HashMap<VersionKey, Arc<LoadedVersion>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an instance for a request of its version.
    pub(super) fn keep_idle(&self, version: &Arc<LoadedVersion>, instance: IdleInstance) {
        self.idle_instances.keep(version.key, instance);
        // Checked after it was added: an unload after this check finds the instance itself.
        let is_loaded = self.versions().get(&version.key).is_some_and(|loaded| Arc::ptr_eq(loaded, version));
        if !is_loaded {
            self.idle_instances.evict_version(version.key);
        }
    }
}

/// What belongs to one request while its instance runs.
pub(super) struct RequestContext {
    pub(super) worker: Arc<WorkerContext>,
    pub(super) version: Arc<LoadedVersion>,
    pub(super) request: RequestId,
    /// Whether another function sent it.
    pub(super) is_call: bool,
    pub(super) limits: RequestLimits,
    pub(super) usage: Arc<RequestUsage>,
}
