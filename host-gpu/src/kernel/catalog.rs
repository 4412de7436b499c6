//! Kernels before they are compiled: the kernels that a version of a function declares, and the hash that identifies a
//! compiled kernel.

use crate::check;
use crate::error::Error;
use gannet_gpu_protocol::source_hash;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// A kernel as a component declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredKernel {
    /// The WGSL source.
    pub wgsl: Arc<str>,
    /// Name of the entry point.
    pub entry: String,
}

/// The kernels that a version of a function declares, by name.
pub type KernelCatalog = HashMap<String, DeclaredKernel>;

/// Returns the kernels of a declared source with their names: `name` if the module has one entry point,
/// `name/entry` for each if it has several.
pub fn declare(name: &str, wgsl: &str) -> Result<Vec<(String, DeclaredKernel)>, Error> {
    let entries = check::entry_points(wgsl)?;
    if entries.is_empty() {
        return Err(Error::KernelRejected("the module has no compute entry point".into()));
    }
    let single = entries.len() == 1;
    let wgsl: Arc<str> = wgsl.into();
    let named = entries.into_iter().map(|entry| {
        let full = if single { name.to_owned() } else { format!("{name}/{entry}") };
        (full, DeclaredKernel { wgsl: Arc::clone(&wgsl), entry })
    });
    Ok(named.collect())
}

/// Returns the hash that identifies a compiled kernel: of source, entry point, and override values.
pub(crate) fn kernel_hash(wgsl: &str, entry: &str, constants: &[(String, f64)]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(source_hash(wgsl, entry));
    for (name, value) in constants {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(value.to_bits().to_le_bytes());
    }
    hash.finalize().into()
}
