//! What workers and requests need from the rest of the server: secrets, outbound HTTP, logs, the ledger and prices.

use crate::egress::Egress;
use crate::logs::Logs;
use crate::pool::worker::Worker;
use crate::pool::{Pool, PoolError};
use gannet_base::bill::price::Price;
use gannet_state::config::LiveConfig;
use gannet_state::ledger::Ledger;
use gannet_state::registry::{Snapshot, Version};
use gannet_state::secrets::Vault;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Parts of the server that the pool uses.
#[derive(Debug)]
pub struct PoolServices {
    /// Decrypts secrets.
    pub vault: Arc<Vault>,
    /// Outbound HTTP.
    pub egress: Arc<Egress>,
    /// Log lines of functions.
    pub logs: Arc<Logs>,
    /// Gets a line for GPU memory that is kept while nobody calls.
    pub ledger: Arc<Ledger>,
    /// The live configuration, for prices.
    pub live: LiveConfig,
}

/// Decrypts the secrets that a version names, with their values in `snapshot`.
pub(crate) struct SecretReader<'a> {
    pub(super) vault: &'a Vault,
    pub(super) snapshot: Arc<Snapshot>,
}

impl SecretReader<'_> {
    pub(super) fn open(&self, version: &Version) -> Result<BTreeMap<String, String>, PoolError> {
        let tenant = self.snapshot.tenants.get(&version.tenant);
        let open = |name: &String| {
            let record = tenant.and_then(|tenant| tenant.secrets.get(name));
            let record = record.ok_or_else(|| PoolError::SecretMissing { name: name.clone() })?;
            let value = self.vault.unseal(&version.tenant, name, &record.sealed);
            Ok((name.clone(), value.map_err(|error| PoolError::Internal(error.to_string()))?))
        };
        version.manifest().secrets.names.iter().map(open).collect()
    }
}

impl Pool {
    /// Returns the GPU class of a worker's slot, and the current price of work there.
    pub(super) fn price(&self, worker: &Worker) -> (&str, Price) {
        let file = self.services.live.load();
        let gpu_slot = worker.slot().and_then(|slot| self.slots.get(slot)).or_else(|| self.slots.first());
        let own = gpu_slot.and_then(|gpu_slot| file.gpus.get(gpu_slot.slot)).and_then(|gpu| gpu.micro_units_per_s);
        let price = Price {
            gpu_micro_units_per_s: own.unwrap_or(file.prices.gpu_micro_units_per_s),
            cpu_micro_units_per_s: file.prices.cpu_micro_units_per_s,
            resident_micro_units_per_gib_s: file.prices.resident_micro_units_per_gib_s,
        };
        (gpu_slot.map_or("none", |gpu_slot| gpu_slot.class.as_str()), price)
    }
}
