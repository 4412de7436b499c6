//! A claim on a worker, released when it is dropped.

use crate::meter::StartKind;
use crate::pool::table::Table;
use crate::pool::worker::Worker;
use crate::registry::Version;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The table that all claims share.
pub(crate) type SharedTable = Arc<Mutex<Table<Arc<Worker>>>>;

/// A seat in a worker.
#[derive(Debug)]
pub struct Seated {
    worker: Arc<Worker>,
    version: Arc<Version>,
    table: SharedTable,
    /// How the worker came to be there.
    pub(crate) kind: StartKind,
}

impl Seated {
    pub(crate) fn new(worker: Arc<Worker>, version: Arc<Version>, table: SharedTable, kind: StartKind) -> Self {
        Self { worker, version, table, kind }
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
        table.release(&self.version.tenant, &self.worker, idle, scale.min > 0, Instant::now());
    }
}
