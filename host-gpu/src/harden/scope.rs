//! Among which invocations [`super::uniformity`] looks for differences, and what a source may turn off.

use super::written_arguments::WrittenArguments;
use naga::diagnostic_filter::{FilterableTriggeringRule, Severity};
use naga::{BuiltIn, Function, Module};

/// WGSL's name of the rule that a source may turn off.
const RULE: &str = "subgroup_uniformity";

/// The invocations among which the analysis looks for differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Workgroup,
    Subgroup,
}

impl Scope {
    /// Returns whether a built-in value is the same in all invocations of the scope.
    pub(super) fn is_uniform(self, built_in: BuiltIn) -> bool {
        match built_in {
            BuiltIn::WorkGroupId | BuiltIn::NumWorkGroups | BuiltIn::SubgroupSize | BuiltIn::NumSubgroups => true,
            BuiltIn::SubgroupId => self == Self::Subgroup,
            _ => false,
        }
    }
}

/// What the analysis of every function reads.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) module: &'a Module,
    pub(super) wgsl: &'a str,
    pub(super) scope: Scope,
    pub(super) written: &'a WrittenArguments,
}

impl Given<'_> {
    /// Returns whether the source allows subgroup operations in this function that only some invocations reach.
    pub(super) fn allows_divergence(self, function: &Function) -> bool {
        let mut next = function.diagnostic_filter_leaf;
        while let Some(node) = next {
            let node = &self.module.diagnostic_filters[node];
            if matches!(&node.inner.triggering_rule, FilterableTriggeringRule::Unknown(rule) if &**rule == RULE) {
                return node.inner.new_severity != Severity::Error;
            }
            next = node.parent;
        }
        false
    }
}
