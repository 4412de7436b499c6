//! Keeps what one entry point reaches. The rest of a module is WGSL, but no part of the kernel, and is not judged: a texture
//! that another stage uses, a large workgroup variable of another kernel.

use crate::error::Error;
use naga::{EntryPoint, Module, ShaderStage};

fn is_it(point: &EntryPoint, name: &str) -> bool {
    point.name == name && point.stage == ShaderStage::Compute
}

/// Refuses a name that is not the name of a compute entry point.
pub(super) fn check_entry(module: &Module, name: &str) -> Result<(), Error> {
    if module.entry_points.iter().any(|point| is_it(point, name)) {
        return Ok(());
    }
    let names: Vec<&str> = module.entry_points.iter().map(|point| point.name.as_str()).collect();
    Err(Error::KernelRejected(format!("there is no compute entry point {name:?}; the module has {names:?}")))
}

/// Removes all other entry points from a valid module, and what only they use.
pub(super) fn keep(module: &mut Module, name: &str) {
    module.entry_points.retain(|point| is_it(point, name));
    naga::compact::compact(module, naga::compact::KeepUnused::No);
}
