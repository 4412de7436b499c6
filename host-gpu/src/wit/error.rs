//! `gannet:gpu/errors`: our errors as the guest sees them. A handle that is not in the table is the
//! guest's broken bindings, and a trap.

use super::GpuCtxView;
use super::interfaces::errors::{Error as WitError, Host};
use crate::error::Error;
use wasmtime::component::ResourceTableError;

/// What a host function of the interface can fail with.
#[derive(Debug)]
pub enum GpuFault {
    /// Goes to the guest.
    Guest(Error),
    /// Ends the guest.
    Trap(wasmtime::Error),
}

impl From<Error> for GpuFault {
    fn from(error: Error) -> Self {
        Self::Guest(error)
    }
}

impl From<ResourceTableError> for GpuFault {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

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
