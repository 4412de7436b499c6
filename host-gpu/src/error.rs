//! What can go wrong on the GPU side, one case for each thing a caller can act on.
//!
//! The cases are those of `wit/errors.wit`. Texts name the value that was refused and the limit.

/// An error of a GPU operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Arguments that are wrong: ranges, alignments, bindings, grids.
    #[error("{0}")]
    InvalidArgument(String),
    /// No kernel or asset of that name.
    #[error("{0}")]
    NotFound(String),
    /// WGSL that was refused; the text is `line:column: message`.
    #[error("{0}")]
    KernelRejected(String),
    /// The allocation would pass a memory limit.
    #[error("{0}")]
    MemoryQuota(String),
    /// Larger than the device can hold in one buffer or binding.
    #[error("{0}")]
    TooLarge(String),
    /// A kernel ran out of its loop budget.
    #[error("{0}")]
    BudgetExhausted(String),
    /// The request's GPU time is used up.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The device lacks a feature.
    #[error("{0}")]
    Unsupported(String),
    /// The device is gone, and with it everything on it.
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

/// Maps what a wgpu error scope caught. Validation that got this far is an argument our own checks
/// did not foresee, so wgpu's own words go to the caller.
pub(crate) fn from_wgpu(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::MemoryQuota("the gpu has no memory left for this allocation".into()),
        wgpu::Error::Validation { description, .. } => Error::InvalidArgument(description),
        wgpu::Error::Internal { description, .. } => Error::DeviceLost(description),
    }
}

/// Waits for a future that wgpu's native backends resolve at once.
pub(crate) fn ready<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
