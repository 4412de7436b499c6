//! Validation by naga, with the capabilities of a device.

use super::abilities::Abilities;
use crate::error::Error;
use crate::harden::rejected_at;
use naga::Module;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use std::fmt::Write;

/// Returns what WGSL may use on a device, as naga's capabilities.
pub(super) fn capabilities(can: Abilities) -> Capabilities {
    // `pack2x16float` and the like are part of WGSL without an extension. wgpu refuses them if the device lacks them.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SHADER_FLOAT16, can.f16);
    capabilities.set(Capabilities::SUBGROUP, can.subgroups);
    capabilities
}

/// Makes a validator with these capabilities.
pub(super) fn validator(capabilities: Capabilities, subgroups: bool) -> Validator {
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    }
    validator
}

/// Validates a module as the tenant wrote it. Errors name line and column.
pub(super) fn validate(module: &Module, wgsl: &str, can: Abilities) -> Result<ModuleInfo, Error> {
    validator(capabilities(can), can.subgroups).validate(module).map_err(|error| {
        let at = error.location(wgsl);
        rejected_at(at, &with_causes(error.as_inner()))
    })
}

/// Returns an error's text followed by the texts of its causes.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
