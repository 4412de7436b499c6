//! Why a request got no answer from a worker, and how its client is told.

use crate::inbound::RequestError;
use gannet_base::hop::{Fault, FaultCode};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};

/// Characters of a worker's own words that are kept.
pub(super) const DETAIL_CHARACTERS_MAX: usize = 2000;

/// Why a request got no answer from a worker.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All workers are busy and no more may be started, or there is no GPU to start one on.
    #[error("capacity: {0}")]
    NoCapacity(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// Nothing of the tenant's may run any more.
    #[error("the tenant is suspended")]
    Suspended,
    /// A worker could not be started.
    #[error("no worker could be started: {0}")]
    StartFailed(String),
    /// The worker ended while it ran the request.
    #[error("the function's worker ended while it ran the request: {0}")]
    Killed(String),
    /// Its workers were killed again and again.
    #[error(
        "the function's worker was killed {kills} times in a row, last because {why}; it is tried again in {left_s} s"
    )]
    BackingOff {
        /// How often.
        kills: u32,
        /// Why the last time.
        why: String,
        /// When it is tried again.
        left_s: u64,
    },
    /// The guest trapped or did not answer.
    #[error("{0}")]
    Trapped(String),
    /// The guest passed its memory limit.
    #[error("{0}")]
    MemoryLimit(String),
    /// The guest passed a time limit.
    #[error("{0}")]
    Deadline(String),
    /// Our own fault.
    #[error("{0}")]
    Internal(String),
    /// The request's body was cut while it was being sent.
    #[error(transparent)]
    Request(RequestError),
}

impl From<Fault> for PoolError {
    fn from(fault: Fault) -> Self {
        let detail = fault.detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        match fault.code {
            FaultCode::FunctionTrapped => Self::Trapped(detail),
            FaultCode::MemoryLimit => Self::MemoryLimit(detail),
            FaultCode::DeadlineExceeded => Self::Deadline(detail),
            FaultCode::Unavailable => Self::Internal(detail),
        }
    }
}

impl From<PoolError> for Refusal {
    fn from(error: PoolError) -> Self {
        use Blame as B;
        use PoolError as E;
        use RefusalKind as K;
        let (kind, code, blame) = match &error {
            E::NoCapacity(_) | E::StartFailed(_) => (K::Unavailable, "no_capacity", B::Platform),
            E::Draining => (K::Unavailable, "draining", B::Platform),
            E::Suspended => (K::Forbidden, "tenant_suspended", B::Caller),
            E::Killed(_) => (K::FunctionFailed, "function_killed", B::Function),
            E::BackingOff { .. } => (K::Unavailable, "function_backing_off", B::Function),
            E::Trapped(_) | E::MemoryLimit(_) => (K::FunctionFailed, "function_trapped", B::Function),
            E::Deadline(_) => (K::FunctionTimeout, "deadline_exceeded", B::Function),
            E::Internal(_) => (K::Internal, "internal", B::Platform),
            // Even where the server is full of bodies: this one was being sent.
            E::Request(error) => return Self { blame: B::Caller, ..error.clone().into() },
        };
        let refusal = Self::new(kind, code, blame, &error);
        match error {
            E::NoCapacity(_) => refusal.retry_after(1),
            E::StartFailed(_) | E::Draining => refusal.retry_after(5),
            E::Killed(_) => {
                refusal.hint("the worker process ended while it ran this request; `gannet logs` may say more")
            }
            E::BackingOff { left_s, .. } => {
                refusal.retry_after(left_s).hint("deploy a version that is not killed, and it is tried at once")
            }
            E::Trapped(_) => refusal.permanent(),
            E::MemoryLimit(_) => refusal.hint("raise [limits] memory_mib in gannet.toml").permanent(),
            E::Deadline(_) => refusal.hint("raise [limits] timeout_ms or cpu_ms in gannet.toml"),
            E::Suspended | E::Internal(_) | E::Request(_) => refusal,
        }
    }
}
