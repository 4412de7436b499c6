//! The quarantine of kernels that did not release the GPU. It is in force before it is stored.

use crate::registry::{Registry, RegistryError, Snapshot, tenant_mut};
use crate::store::WriteBatch;
use gannet_base::names::TenantName;
use gannet_base::records::QuarantineRecord;
use std::sync::Arc;

/// Maximum number of quarantined kernels of one tenant.
const QUARANTINE_MAX: usize = 256;

/// Adds kernels to a tenant's quarantine. Returns what to commit.
fn add_quarantine(next: &mut Snapshot, tenant: &TenantName, sources: &[[u8; 32]]) -> Result<WriteBatch, RegistryError> {
    let tenant_entry = tenant_mut(next, tenant)?;
    let mut records = tenant_entry.quarantine.to_vec();
    for source in sources {
        if !records.iter().any(|record| record.source == *source) {
            records.push(QuarantineRecord { source: *source, since: jiff::Timestamp::now() });
        }
    }
    // A tenant could fill the list with kernels made at run time, so the oldest entries are dropped.
    records.drain(..records.len().saturating_sub(QUARANTINE_MAX));
    tenant_entry.quarantine = Arc::new(records);
    Ok(WriteBatch::new().tenant(tenant, &tenant_entry.stored())?)
}

impl Registry {
    /// Quarantines kernels of a tenant, by the hashes of their sources: they may not run until they are deployed again.
    /// This takes effect at once. An error only means that the quarantine may be lost at a restart.
    pub async fn quarantine(&self, tenant: &TenantName, sources: &[[u8; 32]]) -> Result<(), RegistryError> {
        let mut changing = self.changing.lock().await;
        let settled = self.settle(&mut changing).await;
        let mut next = Snapshot::clone(&self.snapshot());
        let change = add_quarantine(&mut next, tenant, sources)?;
        if let Some((_, open)) = &mut changing.open {
            // It holds in what is published when the end of the change before is known.
            let mut later = Snapshot::clone(open);
            add_quarantine(&mut later, tenant, sources).ok();
            *open = Arc::new(later);
        }
        self.snapshot.store(Arc::new(next.clone()));
        settled?;
        Ok(self.commit(&mut changing, change, next).await?)
    }
}
