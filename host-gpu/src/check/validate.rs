//! Validation by naga, with the capabilities of a device.

use super::abilities::Abilities;
use super::directives::Directives;
use crate::error::Error;
use crate::harden::rejected_at;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Binding, BuiltIn, Expression, Module, Span};
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

/// Validates a whole module as WGSL, whatever the device can do. Errors name line and column.
pub(super) fn validate_wgsl(module: &Module, wgsl: &str, directives: &Directives) -> Result<ModuleInfo, Error> {
    let info = validate_with(module, wgsl, Capabilities::all(), true)?;
    if !directives.subgroups && uses_subgroups(module) {
        let begin = wgsl.find("subgroup").and_then(|at| u32::try_from(at).ok());
        let at = begin.map(|begin| Span::new(begin, begin).location(wgsl));
        return Err(rejected_at(at, "subgroup operations and built-in values need the directive `enable subgroups;`"));
    }
    Ok(info)
}

/// Validates the module of one kernel for a device. Errors name line and column.
pub(super) fn validate(module: &Module, wgsl: &str, can: Abilities) -> Result<ModuleInfo, Error> {
    validate_with(module, wgsl, capabilities(can), can.subgroups)
}

fn validate_with(
    module: &Module,
    wgsl: &str,
    capabilities: Capabilities,
    subgroups: bool,
) -> Result<ModuleInfo, Error> {
    validator(capabilities, subgroups).validate(module).map_err(|error| {
        let at = error.location(wgsl);
        rejected_at(at, &with_causes(error.as_inner()))
    })
}

fn uses_subgroups(module: &Module) -> bool {
    let is_built_in = |binding: &Option<Binding>| {
        matches!(
            binding,
            Some(Binding::BuiltIn(
                BuiltIn::SubgroupId | BuiltIn::NumSubgroups | BuiltIn::SubgroupSize | BuiltIn::SubgroupInvocationId
            ))
        )
    };
    let in_structures = module.types.iter().any(|(_, ty)| match &ty.inner {
        naga::TypeInner::Struct { members, .. } => members.iter().any(|member| is_built_in(&member.binding)),
        _ => false,
    });
    let functions = module.functions.iter().map(|(_, function)| function);
    let mut all = functions.chain(module.entry_points.iter().map(|entry| &entry.function));
    in_structures
        || all.any(|function| {
            function.arguments.iter().any(|argument| is_built_in(&argument.binding))
                || function.expressions.iter().any(|(_, expression)| {
                    matches!(expression, Expression::SubgroupBallotResult | Expression::SubgroupOperationResult { .. })
                })
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
