//! `/api/v1/gpus`: describes the GPUs of this server. Only the operator sees who uses them.

use super::Control;
use gannet_base::identity::Caller;
use gannet_fleet::gpus::GpuSlot;

impl Control {
    /// Returns the GPUs and their health. Only the operator sees who uses them, because a tenant must not learn
    /// that there are others.
    pub(super) fn gpus(&self, caller: &Caller) -> gannet_api::Gpus {
        let counts = self.pool.counts();
        let operator = *caller == Caller::Operator;
        let view = |gpu_slot: &GpuSlot| {
            let gpu = gpu_slot.gpu.clone()?;
            let counts = counts.get(gpu_slot.slot).filter(|_| operator);
            let health = serde_json::to_value(self.arbiter.health(gpu_slot.slot)).unwrap_or_default();
            Some(gannet_api::GpuView {
                place: gpu_slot.slot,
                index: gpu.index,
                name: gpu.name,
                backend: gpu.backend,
                driver: gpu.driver,
                class: gpu_slot.class.clone(),
                software: gpu.software,
                timestamps: gpu.timestamps,
                memory_bytes: gpu.memory_bytes,
                context_bytes: gpu.context_bytes,
                health: health.as_str().unwrap_or("unknown").to_owned(),
                holder: operator.then(|| self.arbiter.holder(gpu_slot.slot)).flatten().map(|tenant| tenant.to_string()),
                workers: counts.map(|counts| counts.workers),
                spares_ready: counts.map(|counts| counts.spares),
                workers_max: operator.then_some(gpu_slot.workers_max),
            })
        };
        gannet_api::Gpus { gpus: self.slots.iter().filter_map(view).collect() }
    }
}
