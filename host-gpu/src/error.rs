//! Errors of the GPU side, with one case for each reaction that a caller may have.
//!
//! The cases are those of `wit/errors.wit`. Texts name the refused value and the limit.

/// An error of a GPU operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An invalid argument: a range, an alignment, a binding or a grid.
    #[error("{0}")]
    InvalidArgument(String),
    /// There is no kernel or asset of that name, or the asset's file cannot be read.
    #[error("{0}")]
    NotFound(String),
    /// The kernel was refused. The text is `line:column: message` if the place is known.
    #[error("{0}")]
    KernelRejected(String),
    /// The allocation would exceed a memory limit.
    #[error("{0}")]
    MemoryQuota(String),
    /// The size exceeds the device's limit for a buffer or binding, or the limit of one read.
    #[error("{0}")]
    TooLarge(String),
    /// A kernel ran out of its loop budget.
    #[error("{0}")]
    BudgetExhausted(String),
    /// The request's GPU time is used up, or the request has ended.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The device lacks a feature.
    #[error("{0}")]
    Unsupported(String),
    /// The device was lost, with everything on it.
    #[error("{0}")]
    DeviceLost(String),
}

impl Error {
    /// The stable snake_case name of the case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument(_) => "invalid_argument",
            Self::NotFound(_) => "not_found",
            Self::KernelRejected(_) => "kernel_rejected",
            Self::MemoryQuota(_) => "gpu_memory_quota",
            Self::TooLarge(_) => "too_large",
            Self::BudgetExhausted(_) => "loop_budget_exhausted",
            Self::DeadlineExceeded(_) => "deadline_exceeded",
            Self::Unsupported(_) => "unsupported",
            Self::DeviceLost(_) => "device_lost",
        }
    }

    pub(crate) fn lost() -> Self {
        Self::DeviceLost("the gpu device was lost".into())
    }
}

/// Converts an error that a wgpu error scope caught. A validation error means that our own checks missed an invalid
/// argument, so the caller gets wgpu's own text.
pub(crate) fn from_wgpu(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::MemoryQuota("the gpu has no memory left for this allocation".into()),
        wgpu::Error::Validation { description, .. } => Error::InvalidArgument(description),
        wgpu::Error::Internal { description, .. } => Error::DeviceLost(description),
    }
}

/// Returns the output of a future that wgpu's native backends resolve at once. None if it is pending.
pub(crate) fn ready<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
