//! Spare workers: started before they are needed, with an open GPU device and no tenant. A claimed spare is replaced.

use super::Pool;
use super::error::PoolError;
use super::worker::Worker;
use crate::gpus::SlotId;
use std::sync::Arc;
use std::time::Duration;

/// Delay from the claim of a spare to the start of the next one.
const REFILL_DELAY: Duration = Duration::from_millis(50);

/// Pause before a spare that could not be started is tried again.
const SPARE_RETRY: Duration = Duration::from_secs(2);

impl Pool {
    /// Starts the spares that are missing.
    pub(super) fn refill(&self) {
        if self.draining.is_cancelled() {
            return;
        }
        // Not in the loop's head, which would hold the lock during the loop.
        let missing = self.lock().spares_missing();
        for slot in missing {
            let pool = self.clone();
            tokio::spawn(async move {
                match pool.start_worker(slot).await {
                    Ok(worker) => {
                        let mut table = pool.lock();
                        table.spare_started(slot, Some(Arc::clone(&worker)));
                        // It may have ended before it was in the table.
                        if worker.dead().is_cancelled() {
                            table.died(&worker);
                        }
                        drop(table);
                        pool.table_changed.notify_waiters();
                    }
                    Err(error) => {
                        tracing::error!(%error, "a spare could not be started");
                        pool.lock().spare_started(slot, None);
                        tokio::time::sleep(SPARE_RETRY).await;
                        pool.refill();
                    }
                }
            });
        }
    }

    /// Starts the spares that are missing, after [`REFILL_DELAY`]. Loading a GPU driver takes a core for a third of a
    /// second, which the request that took the last spare needs first.
    pub(super) fn refill_soon(&self) {
        let pool = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REFILL_DELAY).await;
            pool.refill();
        });
    }

    /// Starts a worker in a slot, and removes it from the table when its process has ended.
    pub(super) async fn start_worker(&self, slot: SlotId) -> Result<Arc<Worker>, PoolError> {
        let gpu_slot = self.slots.get(slot).ok_or_else(|| PoolError::Internal(format!("there is no slot {slot}")))?;
        let files = self.registry.store().files();
        let worker = Worker::start(&self.spawner, files, &self.settings, gpu_slot, &self.services.logs).await?;
        let (pool, watched) = (self.clone(), Arc::clone(&worker));
        tokio::spawn(async move {
            watched.dead().cancelled().await;
            pool.lock().died(&watched);
            pool.table_changed.notify_waiters();
            pool.refill();
        });
        Ok(worker)
    }
}
