//! A claim on a worker, released when it is dropped.

use crate::meter::StartKind;
use crate::pool::table::Table;
use crate::pool::worker::Worker;
use crate::registry::Version;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The table that all claims share.
pub(crate) type SharedTable = Arc<Mutex<Table<Arc<Worker>>>>;

/// A seat in a worker.
#[derive(Debug)]
pub struct Seated {
    worker: Arc<Worker>,
    version: Arc<Version>,
    table: SharedTable,
    changed: Arc<Notify>,
    /// How long it took until there was room for a worker.
    pub(crate) capacity_wait: Duration,
    /// How the worker came to be there.
    pub(crate) kind: StartKind,
}

impl Seated {
    pub(crate) fn new(
        worker: Arc<Worker>,
        version: Arc<Version>,
        (table, changed): (SharedTable, Arc<Notify>),
        kind: StartKind,
    ) -> Self {
        Self { worker, version, table, changed, capacity_wait: Duration::ZERO, kind }
    }

    /// The worker.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let scale = &self.version.manifest().scale;
        let idle = Duration::from_secs(scale.idle_timeout_s);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let idle_now = table.release(&self.version.tenant, &self.worker, idle, scale.min > 0, Instant::now());
        drop(table);
        if idle_now {
            // Whoever waits for room may have its place.
            self.changed.notify_waiters();
        }
    }
}
