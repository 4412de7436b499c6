//! A claim on a worker, released when it is dropped.

use crate::pool::table::WorkerTable;
use crate::pool::worker::Worker;
use gannet_base::bill::StartKind;
use gannet_state::registry::{Registry, Version};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The table that all claims share.
pub(crate) type SharedWorkerTable = Arc<Mutex<WorkerTable<Arc<Worker>>>>;

/// A request's claim on a worker. While it is held, the worker is busy and does not unload the version. Dropping it
/// releases the worker.
#[derive(Debug)]
pub struct WorkerClaim {
    worker: Arc<Worker>,
    version: Arc<Version>,
    table: SharedWorkerTable,
    table_changed: Arc<Notify>,
    registry: Arc<Registry>,
    /// How long the request waited until a worker was free or could be started.
    pub(crate) capacity_wait: Duration,
    /// Whether the start was hot, warm or cold.
    pub(crate) kind: StartKind,
}

impl WorkerClaim {
    pub(crate) fn new(
        worker: Arc<Worker>,
        version: Arc<Version>,
        (table, table_changed, registry): (SharedWorkerTable, Arc<Notify>, Arc<Registry>),
        kind: StartKind,
    ) -> Self {
        worker.begin_request(version.key);
        Self { worker, version, table, table_changed, registry, capacity_wait: Duration::ZERO, kind }
    }

    /// The claimed worker.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for WorkerClaim {
    fn drop(&mut self) {
        let idle_timeout = Duration::from_secs(self.version.manifest().scale.idle_timeout_s);
        self.worker.end_request_of(&self.version, &self.registry);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let idle_now = table.release(&self.version.tenant, &self.worker, idle_timeout, Instant::now());
        drop(table);
        if idle_now {
            // A request that waits for a worker may evict this one.
            self.table_changed.notify_waiters();
        }
    }
}
