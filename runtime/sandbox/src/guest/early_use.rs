//! Notes whether a guest used something of a request before it had one.
//!
//! An instance may be made before its request arrives, and a component may run code while it is instantiated. The log,
//! the GPU and outbound HTTP belong to a request. A guest that has tried to use one of them must not serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first such use. All clones share one flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct EarlyUse(Arc<AtomicBool>);

impl EarlyUse {
    pub(crate) fn record(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
