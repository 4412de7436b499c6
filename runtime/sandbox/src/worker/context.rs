//! What all requests of a worker process share. Made once at startup; requests only read it.
//!
//! It uses the parts that it holds, and none of them may use it: a part that needs its neighbours is given them.

use crate::worker::egress::Egress;
use crate::worker::guest::Guest;
use crate::worker::idle::Idle;
use crate::worker::load::Loaded;
use crate::worker::log::Sink;
use crate::worker::pipelines::Pipelines;
use crate::worker::ticker::Ticker;
use gannet_base::hop::VersionKey;
use gannet_host_gpu::Device;
use gannet_process::channel::Channel;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Linker;

/// Everything that requests in this process share.
pub(super) struct WorkerContext {
    pub(super) engine: Engine,
    pub(super) ticker: Arc<Ticker>,
    pub(super) linker: Linker<Guest>,
    /// Why there is no device, if there is none.
    pub(super) device: Result<Arc<Device>, gannet_host_gpu::Error>,
    pub(super) versions: Mutex<HashMap<VersionKey, Arc<Loaded>>>,
    /// Instances that may live at once; the pool has room for each, so it never runs out.
    pub(super) instances: Arc<Semaphore>,
    /// Instances that serve more than one request, between two of them.
    pub(super) idle: Arc<Idle>,
    pub(super) control: Channel,
    pub(super) logs: Arc<Sink>,
    pub(super) egress: Arc<Egress>,
    pub(super) pipelines: Pipelines,
}
