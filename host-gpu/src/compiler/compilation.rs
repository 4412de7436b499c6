//! The compilation of a kernel for a session. It is separate from the session, so that waiting for it does not borrow
//! the session.

use super::KernelCompiler;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::usage::{Payer, nanoseconds};
use gannet_gpu_protocol::source_hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A compilation that has not started.
#[derive(Debug)]
pub struct KernelCompilation {
    pub(crate) compiler: Arc<KernelCompiler>,
    pub(crate) payer: Payer,
    /// The error if the request's GPU time is used up. A kernel in the cache is returned anyway.
    pub(crate) time_left: Result<(), Error>,
    pub(crate) wgsl: Arc<str>,
    pub(crate) entry: String,
    pub(crate) constants: Vec<(String, f64)>,
}

impl KernelCompilation {
    /// Returns the kernel from the cache, or compiles it on a thread that may block. Fails if the kernel is
    /// quarantined.
    pub async fn run(self) -> Result<Arc<Kernel>, Error> {
        if self.compiler.is_quarantined(&source_hash(&self.wgsl, &self.entry)) {
            return Err(Error::KernelRejected(
                "the kernel is quarantined, because a process that ran it did not release the gpu when asked to; \
                 deploying the function again lifts the quarantine"
                    .into(),
            ));
        }
        if let Some(kernel) = self.compiler.cached(&self.wgsl, &self.entry, &self.constants) {
            return Ok(kernel);
        }
        self.time_left?;
        let usage = Arc::clone(&self.payer.usage);
        let started = Instant::now();
        let compiled = tokio::task::spawn_blocking(move || {
            self.compiler.compile(&self.wgsl, &self.entry, &self.constants, &self.payer)
        });
        let result = compiled.await.unwrap_or_else(|_| Err(Error::KernelRejected("the compiler failed".into())));
        let took = nanoseconds(started.elapsed());
        usage.kernels_ns.fetch_add(took, Ordering::Relaxed);
        usage.waited_ns.fetch_add(took, Ordering::Relaxed);
        result
    }
}
