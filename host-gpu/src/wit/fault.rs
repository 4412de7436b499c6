//! The failure of a host function of the interface: an error for the guest, or a trap. A handle that is not in the
//! table means that the guest's bindings are broken, so it is a trap. All resources import this file, so it imports
//! none of theirs.

use crate::error::Error;
use wasmtime::component::ResourceTableError;

/// The failure of a host function of the interface.
#[derive(Debug)]
pub enum GpuFault {
    /// Returned to the guest as an error.
    Guest(Error),
    /// Traps, which ends the guest.
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
