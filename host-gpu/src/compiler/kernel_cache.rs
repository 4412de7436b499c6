//! A least-recently-used cache of the kernels that a device has compiled.

use crate::kernel::Kernel;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Limit of the kernels that a device keeps. Beyond it, the least recently used is evicted.
const CACHE_MAX: usize = 256;

/// Kernels by key, each with the number of the use when it was last used.
#[derive(Debug, Default)]
struct Entries {
    kernels: HashMap<[u8; 32], (Arc<Kernel>, u64)>,
    uses: u64,
}

/// The compiled kernels of one device, by [`crate::kernel::kernel_hash`].
#[derive(Debug, Default)]
pub(super) struct KernelCache {
    entries: Mutex<Entries>,
}

impl KernelCache {
    pub(super) fn get(&self, key: &[u8; 32]) -> Option<Arc<Kernel>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.uses += 1;
        let now = entries.uses;
        let (kernel, used) = entries.kernels.get_mut(key)?;
        *used = now;
        Some(Arc::clone(kernel))
    }

    pub(super) fn put(&self, key: [u8; 32], kernel: &Arc<Kernel>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = entries.uses;
        if entries.kernels.len() >= CACHE_MAX
            && let Some(oldest) = entries.kernels.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            entries.kernels.remove(&oldest);
        }
        entries.kernels.insert(key, (Arc::clone(kernel), now));
    }
}
