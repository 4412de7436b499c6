//! What all requests of a worker process share, and what one of them works with.
//!
//! The first is made once at startup. It uses the parts that it holds, and none of them may use it: a part that needs its
//! neighbours is given them.

use crate::guest::GuestState;
use crate::guest::log::LogSink;
use crate::guest::outbound::OutboundConnection;
use crate::worker::driver_cache::DriverCacheFiles;
use crate::worker::epoch_ticker::EpochTicker;
use crate::worker::idle_instances::IdleInstances;
use crate::worker::usage::RequestUsage;
use crate::worker::version::LoadedVersion;
use gannet_base::hop::VersionKey;
use gannet_base::names::RequestId;
use gannet_host_gpu::Device;
use gannet_process::channel::Channel;
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
    pub(super) versions: Mutex<HashMap<VersionKey, Arc<LoadedVersion>>>,
    /// The instances that may live at once. wasmtime's pool has room for each of them, so it never runs out.
    pub(super) instance_permits: Arc<Semaphore>,
    pub(super) idle_instances: Arc<IdleInstances>,
    pub(super) control: Channel,
    pub(super) log_sink: Arc<LogSink>,
    pub(super) outbound: Arc<OutboundConnection>,
    pub(super) driver_cache: DriverCacheFiles,
}

impl WorkerContext {
    /// The versions that are loaded.
    pub(super) fn versions(&self) -> MutexGuard<'_, HashMap<VersionKey, Arc<LoadedVersion>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one request works with.
pub(super) struct RequestContext {
    pub(super) worker: Arc<WorkerContext>,
    pub(super) version: Arc<LoadedVersion>,
    pub(super) request: RequestId,
    pub(super) usage: Arc<RequestUsage>,
}
