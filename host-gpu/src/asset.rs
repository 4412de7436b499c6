//! Assets: read-only data that outlives requests on the GPU.
//!
//! No version can name an asset yet, because nothing can upload one; so every name is unknown. The
//! types are here because the interface is frozen with them, and a binding can only be made from
//! a [`View`], which nobody can have.

use crate::Error;

/// An asset. There is none yet, so there is no value of this type.
#[derive(Debug, Clone, Copy)]
pub enum Asset {}

/// A bindable range of an asset.
#[derive(Debug, Clone, Copy)]
pub enum View {}

/// Opens an asset of the function's version.
pub fn open(name: &str) -> Result<Asset, Error> {
    Err(Error::NotFound(format!("no asset {name:?} belongs to this version")))
}
