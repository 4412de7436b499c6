//! Counts the builds and the uploads of each tenant.

use super::error::BuildError;
use gannet_base::names::TenantName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most builds of one tenant that run or wait, and most of its uploads that are being received.
const TENANT_BUILDS_OR_UPLOADS_MAX: usize = 16;

pub(super) type TenantCounts = Arc<Mutex<HashMap<TenantName, usize>>>;

/// Counts one build or upload of a tenant until it is dropped.
#[derive(Debug)]
pub struct TenantCountGuard {
    counts: TenantCounts,
    tenant: TenantName,
}

pub(super) fn count(of: &TenantCounts, tenant: &TenantName) -> Result<TenantCountGuard, BuildError> {
    let mut counts = of.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(tenant.clone()).or_default();
    if *count >= TENANT_BUILDS_OR_UPLOADS_MAX {
        return Err(BuildError::TenantBusy { most: TENANT_BUILDS_OR_UPLOADS_MAX });
    }
    *count += 1;
    Ok(TenantCountGuard { counts: Arc::clone(of), tenant: tenant.clone() })
}

impl Drop for TenantCountGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}
