//! How a host function of the interface fails: with an error for the guest, or with a trap. A handle that is not in the
//! table is the guest's broken bindings, and a trap. All resources use this file, so it uses none of theirs.

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
