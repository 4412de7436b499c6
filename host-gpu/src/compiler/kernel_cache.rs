//! The kernels that a device has compiled.

use crate::kernel::Kernel;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// Limit of the kernels that a device keeps. Beyond it, the least recently used is evicted.
const CACHE_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The compiled kernels of one device, by [`crate::kernel::kernel_hash`].
#[derive(Debug)]
pub(super) struct KernelCache {
    kernels: Mutex<LruCache<[u8; 32], Arc<Kernel>>>,
}

impl Default for KernelCache {
    fn default() -> Self {
        Self { kernels: Mutex::new(LruCache::new(CACHE_MAX)) }
    }
}

impl KernelCache {
    pub(super) fn get(&self, key: &[u8; 32]) -> Option<Arc<Kernel>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn put(&self, key: [u8; 32], kernel: &Arc<Kernel>) {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).put(key, Arc::clone(kernel));
    }
}
