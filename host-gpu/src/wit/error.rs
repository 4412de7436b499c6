//! Implements `gannet:gpu/errors`: converts this crate's errors to those of the interface.

use super::GpuCtxView;
use super::fault::GpuFault;
use super::interfaces::errors::{Error as WitError, Host};
use crate::error::Error;

impl From<Error> for WitError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidArgument(text) => Self::InvalidArgument(text),
            Error::NotFound(text) => Self::NotFound(text),
            Error::KernelRejected(text) => Self::KernelRejected(text),
            Error::MemoryQuota(text) => Self::MemoryQuota(text),
            Error::TooLarge(text) => Self::TooLarge(text),
            Error::BudgetExhausted(text) => Self::BudgetExhausted(text),
            Error::DeadlineExceeded(text) => Self::DeadlineExceeded(text),
            Error::Unsupported(text) => Self::Unsupported(text),
            Error::DeviceLost(text) => Self::DeviceLost(text),
        }
    }
}

impl Host for GpuCtxView<'_> {
    fn convert_error(&mut self, fault: GpuFault) -> wasmtime::Result<WitError> {
        match fault {
            GpuFault::Guest(error) => Ok(error.into()),
            GpuFault::Trap(error) => Err(error),
        }
    }
}
