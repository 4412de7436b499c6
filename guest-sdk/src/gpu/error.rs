//! Errors of the GPU interface: each has a code for programs, a status for responses, and the host's message.

use crate::bindings::gannet::gpu::errors;

/// An error of a GPU operation. Its message names the refused value and the limit.
///
/// ```
/// # use gannet_sdk::gpu::Error;
/// assert_eq!(Error::KernelRejected("1:1: …".into()).code(), "kernel_rejected");
/// ```
pub type Error = errors::Error;

impl Error {
    /// The stable code for programs.
    ///
    /// ```
    /// # use gannet_sdk::gpu::Error;
    /// assert_eq!(Error::MemoryQuota("…".into()).code(), "gpu_memory_quota");
    /// ```
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

    /// The status of a response that reports this error.
    ///
    /// ```
    /// # use gannet_sdk::gpu::Error;
    /// assert_eq!(Error::DeadlineExceeded("…".into()).status(), 504);
    /// ```
    pub fn status(&self) -> u16 {
        match self {
            Self::KernelRejected(_) => 422,
            Self::MemoryQuota(_) | Self::BudgetExhausted(_) | Self::DeviceLost(_) => 502,
            Self::DeadlineExceeded(_) => 504,
            Self::InvalidArgument(_) | Self::NotFound(_) | Self::TooLarge(_) | Self::Unsupported(_) => 500,
        }
    }

    /// The host's message.
    ///
    /// ```
    /// # use gannet_sdk::gpu::Error;
    /// assert_eq!(Error::NotFound("kernel blur.wgsl".into()).message(), "kernel blur.wgsl");
    /// ```
    pub fn message(&self) -> &str {
        match self {
            Self::InvalidArgument(text)
            | Self::NotFound(text)
            | Self::KernelRejected(text)
            | Self::MemoryQuota(text)
            | Self::TooLarge(text)
            | Self::BudgetExhausted(text)
            | Self::DeadlineExceeded(text)
            | Self::Unsupported(text)
            | Self::DeviceLost(text) => text,
        }
    }
}

/// The result of a GPU operation.
///
/// ```
/// # use gannet_sdk::gpu::{self, Buffer};
/// fn sum(numbers: &Buffer<f32>) -> gpu::Result<f32> {
///     Ok(numbers.read()?.iter().sum())
/// }
/// ```
pub type Result<T> = std::result::Result<T, Error>;
