//! Why a request got no response from a worker, and the refusal that its client gets.

use crate::build::BuildError;
use crate::inbound::RequestError;
use gannet_base::hop::{Fault, FaultCode};
use gannet_base::quota::account::ReachedCap;
use gannet_base::refusal::{Blame, Refusal, RefusalKind};

/// Most characters that are kept of an error text from a worker.
pub(super) const DETAIL_CHARACTERS_MAX: usize = 2000;

/// Why a request got no response from a worker.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All workers are busy and no more may be started, or there is no GPU to start one on.
    #[error("capacity: {0}")]
    NoCapacity(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The tenant is suspended, so none of its functions may run.
    #[error("the tenant is suspended")]
    Suspended,
    /// A worker could not be started.
    #[error("no worker could be started: {0}")]
    StartFailed(String),
    /// The worker ended while it ran the request.
    #[error("the function's worker ended while it ran the request: {0}")]
    Killed(String),
    /// The function's workers were killed again and again.
    #[error(
        "the function's worker was killed {kills} times in a row, last because {why}; it is tried again in {left_s} s"
    )]
    BackingOff {
        /// Kills in a row.
        kills: u32,
        /// Reason of the latest kill.
        why: String,
        /// Seconds until it is tried again.
        left_s: u64,
    },
    /// The function could not be started: no worker came up for it, or none could load it.
    #[error("the function could not be started {failures} times in a row, last because {why}{}", if *left_s > 0 { format!("; it is tried again in {left_s} s") } else { String::new() })]
    CannotStart {
        /// Failed starts in a row.
        failures: u32,
        /// Why the last one failed.
        why: String,
        /// Seconds until it is tried again.
        left_s: u64,
        /// The cause, for the log.
        cause: Option<String>,
    },
    /// The guest trapped or returned no response.
    #[error("{0}")]
    Trapped(String),
    /// The guest exceeded its memory limit.
    #[error("{0}")]
    MemoryLimit(String),
    /// The guest exceeded a time limit, or no worker was ready before the deadline.
    #[error("{0}")]
    Deadline(String),
    /// A secret that the version names was deleted. It cannot have been served then, but it can be called by its number.
    #[error("the secret {name:?} is not set any more")]
    SecretMissing {
        /// The secret.
        name: String,
    },
    /// The component was compiled again, and is refused now.
    #[error("the component is refused by this version of the server: {0}")]
    Refused(String),
    /// The server failed, and the function is not to blame.
    #[error("{0}")]
    Internal(String),
    /// The key of the request is no longer valid.
    #[error("the key was revoked or has expired while the request ran")]
    KeyRevoked,
    /// The tenant reached a cap while the request ran.
    #[error(
        "the tenant has used up {} while the request ran",
        match cap {
            ReachedCap::Spend => "its spend_micro_units_per_month",
            ReachedCap::GpuTime => "its gpu_ms_per_day",
        }
    )]
    UsedUp {
        /// The cap.
        cap: ReachedCap,
    },
    /// The request's body was cut while it was being sent.
    #[error(transparent)]
    Request(RequestError),
}

impl From<BuildError> for PoolError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Rejected(rejected) => Self::Refused(rejected.detail),
            busy @ (BuildError::Busy
            | BuildError::TenantBusy { .. }
            | BuildError::BudgetUsedUp { .. }
            | BuildError::NoGpu
            | BuildError::DiskFull) => Self::NoCapacity(busy.to_string()),
            BuildError::Failed(cause) => Self::Internal(cause),
        }
    }
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
            E::KeyRevoked => (K::Unauthenticated, "key_revoked", B::Caller),
            E::Killed(_) => (K::FunctionFailed, "function_killed", B::Function),
            E::BackingOff { .. } => (K::Unavailable, "function_backing_off", B::Function),
            E::CannotStart { .. } => (K::Unavailable, "function_cannot_start", B::Platform),
            E::SecretMissing { .. } => (K::FunctionFailed, "secret_missing", B::Function),
            E::Refused(_) => (K::FunctionFailed, "component_refused", B::Function),
            E::Trapped(_) | E::MemoryLimit(_) => (K::FunctionFailed, "function_trapped", B::Function),
            E::Deadline(_) => (K::FunctionTimeout, "deadline_exceeded", B::Function),
            E::UsedUp { cap: ReachedCap::Spend } => (K::PaymentRequired, "spend_limit", B::Caller),
            E::UsedUp { cap: ReachedCap::GpuTime } => (K::TooManyRequests, "tenant_limit", B::Caller),
            E::Internal(_) => (K::Internal, "internal", B::Platform),
            // The caller is to blame even where the error by itself would blame the platform: the body was already
            // being sent.
            E::Request(error) => return Self { blame: B::Caller, ..error.clone().into() },
        };
        let refusal = match &error {
            E::Internal(cause) => Self::server_failed(cause),
            E::StartFailed(cause) => Self::new(kind, code, blame, "no worker could be started").internal(cause),
            E::CannotStart { cause: Some(cause), .. } => Self::new(kind, code, blame, &error).internal(cause),
            _ => Self::new(kind, code, blame, &error),
        };
        match error {
            E::NoCapacity(_) => refusal.retry_after(1),
            E::StartFailed(_) | E::Draining => refusal.retry_after(5),
            E::Killed(_) => {
                refusal.hint("the worker process ended while it ran this request; `gannet logs` may say more")
            }
            E::BackingOff { left_s, .. } => {
                refusal.retry_after(left_s).hint("deploy a fixed version; it is tried at once")
            }
            E::CannotStart { left_s, .. } => refusal.retry_after(left_s.max(1)),
            E::SecretMissing { .. } => refusal.hint("`gannet secret set` sets it").permanent(),
            E::Trapped(_) | E::Refused(_) => refusal.permanent(),
            E::MemoryLimit(_) => {
                Self { is_out_of_memory: true, ..refusal }.hint("raise [limits] memory_mib in gannet.toml").permanent()
            }
            E::Deadline(_) => refusal.hint(
                "raise [limits] timeout_ms or cpu_ms in gannet.toml; for a background job, [jobs] timeout_s or cpu_ms",
            ),
            E::UsedUp { .. } => {
                refusal.hint("`gannet limits` shows the tenant's limits; the operator sets them").permanent()
            }
            E::Suspended | E::KeyRevoked | E::Internal(_) | E::Request(_) => refusal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_their_own_mistakes_and_not_the_servers() {
        let told = |error: PoolError| {
            let refusal = Refusal::from(error);
            (
                refusal.public.contains("cause"),
                refusal.internal.is_some_and(|text| text.contains("cause")),
                refusal.blame,
            )
        };
        let cause = || "cause".to_owned();
        assert_eq!(told(PoolError::SecretMissing { name: cause() }), (true, false, Blame::Function));
        assert_eq!(told(PoolError::Refused(cause())), (true, false, Blame::Function));
        assert_eq!(told(PoolError::Trapped(cause())), (true, false, Blame::Function));
        for error in [PoolError::Internal("/data/x".into()), PoolError::StartFailed("/data/x".into())] {
            let refusal = Refusal::from(error);
            assert!(!refusal.public.contains("/data/x"), "{}", refusal.public);
            assert_eq!((refusal.internal.as_deref(), refusal.blame), (Some("/data/x"), Blame::Platform));
        }
    }
}
