//! Charges the GPU memory that workers keep for functions with `scale.min` while nobody calls them. Writes a line to
//! the ledger for each such worker and span of time. Other idle workers cost nothing.

use crate::pool::Pool;
use crate::pool::worker::Worker;
use gannet_base::bill::{LedgerLine, ResidentMemory};
use gannet_base::names::{FunctionName, RequestId, TenantName};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Length of a charged span.
const SPAN: Duration = Duration::from_secs(10);

impl Pool {
    /// Charges all such workers once per [`SPAN`], until the server drains.
    pub(super) async fn charge_resident(self) {
        while !self.draining.is_cancelled() {
            tokio::time::sleep(SPAN).await;
            let always_on = self.lock().always_on();
            for (tenant, worker, functions) in always_on {
                self.charge(&tenant, &worker, &functions, Instant::now());
            }
        }
    }

    /// Charges a worker for the time since it was last charged. The first call only starts a span.
    fn charge(&self, tenant: &TenantName, worker: &Arc<Worker>, kept_for: &[FunctionName], now: Instant) {
        let since = worker.charged.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        // An older time is from an earlier period in which the worker was kept.
        let since = since.filter(|since| now.saturating_duration_since(*since) < SPAN * 2);
        let snapshot = self.registry.snapshot();
        if !snapshot
            .tenants
            .get(tenant)
            .is_some_and(|tenant| tenant.may_stay_resident(jiff::Timestamp::now(), self.slots.len()))
        {
            self.clear_always_on(tenant);
            return;
        }
        let Some((span, owner)) = since.map(|since| now - since).zip(snapshot.tenants.get(tenant)) else { return };
        let kept = owner.functions.values().find(|function| kept_for.contains(&function.name));
        let gpu_slot = worker.slot().and_then(|slot| self.slots.get(slot));
        let Some((function, gpu)) = kept.zip(gpu_slot.and_then(|gpu_slot| gpu_slot.gpu.as_ref())) else { return };
        let (class, price) = self.price(worker);
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let bytes = owner.resident_gpu_bytes_for(kept_for, gpu.context_bytes);
        let micro_units = price.of_memory(u128::from(bytes) * u128::from(span_ms) / 1000);
        let time = jiff::Timestamp::now();
        owner.account.add(time, 0, 0, micro_units);
        self.services.ledger.write(LedgerLine::Resident(ResidentMemory {
            id: RequestId::new(),
            tenant: tenant.clone(),
            function: function.name.clone(),
            version: function.current.record.number,
            time,
            span_ms,
            bytes,
            class: class.to_owned(),
            price,
            micro_units,
        }));
    }
}
