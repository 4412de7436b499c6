//! Finds what an entry point uses: the variables that a dispatch must bind, its workgroup size, and its memory. Memory
//! and size of the code are limited here, because drivers do not limit them.

use super::abilities::Abilities;
use crate::error::Error;
use crate::harden::{GROUPS_MAX, rejected};
use naga::valid::ModuleInfo;
use naga::{AddressSpace, ImageClass, Module, Span, StorageAccess, TypeInner};

/// Limit of private memory (one invocation's own variables) in bytes. Drivers crash on pipelines with hundreds of
/// megabytes of it and take minutes to compile ones with hundreds of kilobytes.
pub const PRIVATE_BYTES_MAX: u32 = 64 * 1024;
/// Limit of expressions in one function. A compiler's work grows faster than their number.
pub const EXPRESSIONS_MAX: usize = 20_000;
/// Limit of the depth of nested blocks.
pub const NESTING_MAX: usize = 128;

/// How a kernel uses a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<uniform>`
    Uniform,
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// A variable that a dispatch must bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The number in `@group`.
    pub group: u32,
    /// The number in `@binding`.
    pub index: u32,
    /// Name in the source, for messages.
    pub name: String,
    /// How the kernel may access it.
    pub access: Access,
    /// The minimum size of a binding in bytes. A runtime-sized array counts as one element.
    pub size_min: u64,
}

/// Returns the variables that a dispatch of the module's only entry point must bind, and its workgroup size.
pub(super) fn reflect(
    module: &Module,
    info: &ModuleInfo,
    wgsl: &str,
    can: Abilities,
) -> Result<(Vec<Variable>, [u32; 3]), Error> {
    let entry = module.entry_points.first().ok_or_else(|| Error::KernelRejected("the entry point was lost".into()))?;
    let used = info.get_entry_point(0);
    let entry_span = entry.function.body.span_iter().next().map_or(Span::UNDEFINED, |(_, span)| *span);
    let mut variables = Vec::new();
    let (mut workgroup, mut private) = (0u32, locals(module, &entry.function));
    for (handle, global) in module.global_variables.iter() {
        let access = match global.space {
            AddressSpace::Uniform => Access::Uniform,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
            AddressSpace::Storage { .. } => Access::Read,
            AddressSpace::WorkGroup => {
                workgroup = workgroup.saturating_add(size_of(module, global.ty));
                continue;
            }
            AddressSpace::Private => {
                private = private.saturating_add(size_of(module, global.ty));
                continue;
            }
            _ => {
                let name = global.name.as_deref().unwrap_or("?");
                let message = format!("variable {name:?} is {}, which kernels cannot use", kind(module, global));
                return Err(rejected(module.global_variables.get_span(handle), wgsl, &message));
            }
        };
        if used[handle].is_empty() {
            continue;
        }
        let span = module.global_variables.get_span(handle);
        variables.push(variable(module, global, access).map_err(|message| rejected(span, wgsl, &message))?);
    }
    for (_, function) in module.functions.iter() {
        private = private.saturating_add(locals(module, function));
    }
    for (handle, function) in module.functions.iter() {
        check_values(module, function, &info[handle], wgsl)?;
    }
    check_values(module, &entry.function, used, wgsl)?;
    limits(entry.workgroup_size, workgroup, private, can).map_err(|message| rejected(entry_span, wgsl, &message))?;
    variables.sort_by_key(|v| (v.group, v.index));
    Ok((variables, entry.workgroup_size))
}

/// Names a variable that is neither memory nor a buffer, as WGSL does.
fn kind(module: &Module, global: &naga::GlobalVariable) -> &'static str {
    match (&module.types[global.ty].inner, global.space) {
        (TypeInner::Image { class: ImageClass::Storage { .. }, .. }, _) => "a storage texture",
        (TypeInner::Image { .. }, _) => "a texture",
        (TypeInner::Sampler { .. }, _) => "a sampler",
        (TypeInner::BindingArray { .. }, _) => "a binding array",
        (_, AddressSpace::Immediate) => "in the address space `immediate`",
        _ => "of a kind",
    }
}

fn variable(module: &Module, global: &naga::GlobalVariable, access: Access) -> Result<Variable, String> {
    let name = global.name.clone().unwrap_or_default();
    let binding = global.binding.as_ref().ok_or_else(|| format!("variable {name:?} has no @group and @binding"))?;
    if binding.group >= GROUPS_MAX {
        return Err(format!("variable {name:?} is in group {}; groups go up to {}", binding.group, GROUPS_MAX - 1));
    }
    if matches!(module.types[global.ty].inner, TypeInner::BindingArray { .. }) {
        return Err(format!("variable {name:?} is a binding array, which kernels cannot use"));
    }
    let size_min = u64::from(size_of(module, global.ty)).max(4);
    Ok(Variable { group: binding.group, index: binding.binding, name, access, size_min })
}

fn size_of(module: &Module, ty: naga::Handle<naga::Type>) -> u32 {
    module.types[ty].inner.size(module.to_ctx())
}

fn locals(module: &Module, function: &naga::Function) -> u32 {
    function.local_variables.iter().fold(0, |sum: u32, (_, local)| sum.saturating_add(size_of(module, local.ty)))
}

/// Limits the size of values, because they take memory too: a back end spills a value that is indexed to a variable of
/// its own. Also limits the number of expressions and the nesting of blocks.
fn check_values(
    module: &Module,
    function: &naga::Function,
    info: &naga::valid::FunctionInfo,
    wgsl: &str,
) -> Result<(), Error> {
    let count = function.expressions.len();
    if count > EXPRESSIONS_MAX {
        let span = function.body.span_iter().next().map_or(Span::UNDEFINED, |(_, span)| *span);
        let message = format!("the function has {count} expressions; the limit is {EXPRESSIONS_MAX}");
        return Err(rejected(span, wgsl, &message));
    }
    for (handle, _) in function.expressions.iter() {
        let inner = info[handle].ty.inner_with(&module.types);
        if inner.pointer_space().is_some() {
            continue;
        }
        let size = inner.try_size(module.to_ctx());
        if size.is_none_or(|size| size > PRIVATE_BYTES_MAX) {
            let message = format!(
                "a value has {} bytes; the limit for values and private memory is {PRIVATE_BYTES_MAX}",
                size.map_or_else(|| "too many".to_owned(), |size| size.to_string())
            );
            return Err(rejected(function.expressions.get_span(handle), wgsl, &message));
        }
    }
    check_nesting(&function.body, wgsl)
}

/// Limits the depth of nested blocks. It does not recurse, because an `else if` chain is as deep as it is long.
fn check_nesting(body: &naga::Block, wgsl: &str) -> Result<(), Error> {
    let mut blocks = vec![(body, 1usize, Span::UNDEFINED)];
    while let Some((block, depth, place)) = blocks.pop() {
        if depth > NESTING_MAX {
            return Err(rejected(place, wgsl, &format!("blocks are nested more than {NESTING_MAX} deep")));
        }
        for (statement, span) in block.span_iter() {
            match statement {
                naga::Statement::Block(inner) => blocks.push((inner, depth + 1, *span)),
                naga::Statement::If { accept, reject, .. } => {
                    blocks.extend([(accept, depth + 1, *span), (reject, depth + 1, *span)]);
                }
                naga::Statement::Switch { cases, .. } => {
                    blocks.extend(cases.iter().map(|case| (&case.body, depth + 1, *span)));
                }
                naga::Statement::Loop { body, continuing, .. } => {
                    blocks.extend([(body, depth + 1, *span), (continuing, depth + 1, *span)]);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn limits(size: [u32; 3], workgroup: u32, private: u32, can: Abilities) -> Result<(), String> {
    let invocations = size.iter().fold(1u64, |product, n| product.saturating_mul(u64::from(*n)));
    let bounds = [
        ("workgroup invocations", invocations, u64::from(can.workgroup_invocations_max)),
        ("bytes of workgroup memory", u64::from(workgroup), u64::from(can.workgroup_memory_max)),
        ("bytes of private memory", u64::from(private), u64::from(PRIVATE_BYTES_MAX)),
    ];
    for (what, value, limit) in bounds {
        if value > limit {
            return Err(format!("the kernel has {value} {what}; the limit is {limit}"));
        }
    }
    Ok(())
}
