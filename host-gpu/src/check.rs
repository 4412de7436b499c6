//! Reads WGSL before any driver sees it: parse, validate, resolve overrides, reflect, harden.
//!
//! In: WGSL, an entry point, the values of its overrides, what the device can do. Out: a
//! [`Checked`] kernel, the only thing [`crate::kernel`] will compile, so that no text of a tenant
//! reaches the driver unread. [`crate::harden`] is the last step; what it makes is validated again.
//!
//! Invariant: pure; it allocates no GPU memory and never panics on what it is given.

use crate::Error;
use crate::harden::{self, Outcome, Passes, Unit};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, StorageAccess, TypeInner};
use std::fmt::Write;

/// Longer sources are refused: naga's work grows with them, and no kernel we know comes near.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;
/// Memory of one invocation's own variables. Drivers crash on pipelines with hundreds of megabytes
/// of it and take minutes over hundreds of kilobytes.
pub const PRIVATE_BYTES_MAX: u32 = 64 * 1024;
/// Expressions in one function: compilers' work grows faster than their number.
pub const EXPRESSIONS_MAX: usize = 20_000;
/// Blocks inside blocks.
pub const NESTING_MAX: usize = 128;
/// Bind groups that a kernel may use, WebGPU's own limit.
pub const GROUPS_MAX: u32 = 4;
/// naga recurses over nested expressions; its own nesting limits fit this stack with room to spare.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// What a device allows a kernel to use.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// `enable f16;`
    pub f16: bool,
    /// `enable subgroups;`
    pub subgroups: bool,
    /// Bytes of workgroup memory; drivers do not check it.
    pub workgroup_memory_max: u32,
    /// Invocations in one workgroup.
    pub workgroup_invocations_max: u32,
    /// What its loop budgets count.
    pub unit: Unit,
}

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
    /// Its name in the source, for messages.
    pub name: String,
    /// How it is used.
    pub access: Access,
    /// The fewest bytes a binding must have; a runtime-sized array counts one element.
    pub size_min: u64,
}

/// A kernel that was read and found sound.
#[derive(Debug)]
pub struct Checked {
    /// The hardened module, with this entry point alone.
    pub module: Module,
    /// The entry point.
    pub entry: String,
    /// Its variables, by group and index.
    pub variables: Vec<Variable>,
    /// Invocations of one workgroup.
    pub workgroup_size: [u32; 3],
    /// What hardening did.
    pub hardened: Outcome,
}

impl Checked {
    /// The hardened module as WGSL, for people: it says what will run.
    pub fn to_wgsl(&self) -> Result<String, Error> {
        on_big_stack(|| {
            let info = validator(Capabilities::all(), true)
                .validate(&self.module)
                .map_err(|error| Error::KernelRejected(with_causes(error.as_inner())))?;
            naga::back::wgsl::write_string(&self.module, &info, naga::back::wgsl::WriterFlags::EXPLICIT_TYPES)
                .map_err(|error| Error::Unsupported(format!("the kernel cannot be printed: {error}")))
        })
    }
}

/// The names of a module's compute entry points, for finding the kernels of a source.
pub fn entry_points(wgsl: &str) -> Result<Vec<String>, Error> {
    on_big_stack(|| {
        let module = parse(wgsl)?;
        Ok(module.entry_points.iter().filter(|e| e.stage == ShaderStage::Compute).map(|e| e.name.clone()).collect())
    })
}

/// Whether a sound module has overrides without a default: it can only be compiled once their values are known.
pub fn needs_constants(wgsl: &str, can: Abilities) -> Result<bool, Error> {
    on_big_stack(|| {
        let module = parse(wgsl)?;
        validate(&module, wgsl, can)?;
        Ok(module.overrides.iter().any(|(_, value)| value.init.is_none()))
    })
}

/// Checks and hardens one entry point with the given override values.
pub fn check(wgsl: &str, entry: &str, constants: &[(String, f64)], can: Abilities) -> Result<Checked, Error> {
    check_with(wgsl, entry, constants, can, Passes::all(can.unit))
}

/// [`check`] with a choice of passes, for comparing what they make.
pub fn check_with(
    wgsl: &str,
    entry: &str,
    constants: &[(String, f64)],
    can: Abilities,
    passes: Passes,
) -> Result<Checked, Error> {
    on_big_stack(|| check_here(wgsl, entry, constants, can, passes))
}

pub(crate) fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("wgsl".into()).stack_size(STACK_BYTES).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::KernelRejected("the compiler failed on this source".into())),
            Err(error) => Err(Error::Unsupported(format!("no thread to read the kernel on: {error}"))),
        }
    })
}

const ENABLE_SUBGROUPS: &str = "enable subgroups;";

fn parse(wgsl: &str) -> Result<Module, Error> {
    if wgsl.len() > SOURCE_BYTES_MAX {
        return Err(Error::KernelRejected(format!(
            "the source has {} bytes; the limit is {SOURCE_BYTES_MAX}",
            wgsl.len()
        )));
    }
    crate::tokens::check(wgsl)?;
    // naga knows the operations but not yet the directive; whether the device has them is checked after this.
    let wgsl = &wgsl.replace(ENABLE_SUBGROUPS, &" ".repeat(ENABLE_SUBGROUPS.len()));
    naga::front::wgsl::parse_str(wgsl).map_err(|error| {
        let at = error.location(wgsl);
        rejected(at, error.message())
    })
}

fn rejected(at: Option<naga::SourceLocation>, message: &str) -> Error {
    Error::KernelRejected(match at {
        Some(at) => format!("{}:{}: {message}", at.line_number, at.line_position),
        None => message.to_owned(),
    })
}

fn check_here(
    wgsl: &str,
    entry: &str,
    constants: &[(String, f64)],
    can: Abilities,
    passes: Passes,
) -> Result<Checked, Error> {
    let module = parse(wgsl)?;
    let info = validate(&module, wgsl, can)?;
    let known = module.entry_points.iter().any(|e| e.name == entry && e.stage == ShaderStage::Compute);
    if !known {
        let names: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
        return Err(Error::KernelRejected(format!(
            "there is no compute entry point {entry:?}; the module has {names:?}"
        )));
    }
    let values = constants.iter().cloned().collect();
    let stage = Some((ShaderStage::Compute, entry));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, stage, &values)
        .map_err(|error| Error::KernelRejected(with_causes(&error)))?;
    // `process_overrides` leaves the module as it is when it has one entry point and no overrides.
    let index = module.entry_points.iter().position(|e| e.name == entry && e.stage == ShaderStage::Compute);
    let index = index.ok_or_else(|| Error::KernelRejected(format!("entry point {entry:?} was lost")))?;
    let (variables, workgroup_size) = reflect(&module, &info, index, can)?;
    let mut module = module.into_owned();
    let hardened = harden::harden(&mut module, &info, wgsl, passes)?;
    let mut capabilities = capabilities(can);
    capabilities.insert(Capabilities::IMMEDIATES);
    validator(capabilities, can.subgroups).validate(&module).map_err(|error| {
        tracing::error!(error = with_causes(error.as_inner()), "a hardened kernel is not valid");
        Error::KernelRejected(format!("the kernel cannot be hardened: {}", with_causes(error.as_inner())))
    })?;
    Ok(Checked { entry: entry.to_owned(), variables, workgroup_size, module, hardened })
}

fn capabilities(can: Abilities) -> Capabilities {
    // `pack2x16float` and its like are WGSL without an extension; wgpu refuses them where a device lacks them.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SHADER_FLOAT16, can.f16);
    capabilities.set(Capabilities::SUBGROUP, can.subgroups);
    capabilities
}

fn validator(capabilities: Capabilities, subgroups: bool) -> Validator {
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    }
    validator
}

fn validate(module: &Module, wgsl: &str, can: Abilities) -> Result<ModuleInfo, Error> {
    validator(capabilities(can), can.subgroups).validate(module).map_err(|error| {
        let at = error.location(wgsl);
        rejected(at, &with_causes(error.as_inner()))
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

fn reflect(
    module: &Module,
    info: &ModuleInfo,
    index: usize,
    can: Abilities,
) -> Result<(Vec<Variable>, [u32; 3]), Error> {
    let entry =
        module.entry_points.get(index).ok_or_else(|| Error::KernelRejected("the entry point was lost".into()))?;
    let used = info.get_entry_point(index);
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
                return Err(Error::KernelRejected(format!(
                    "variable {name:?} is in an address space kernels cannot use: {:?}",
                    global.space
                )));
            }
        };
        if used[handle].is_empty() {
            continue;
        }
        variables.push(variable(module, global, access)?);
    }
    for (_, function) in module.functions.iter() {
        private = private.saturating_add(locals(module, function));
    }
    for (handle, function) in module.functions.iter() {
        check_values(module, function, &info[handle])?;
    }
    check_values(module, &entry.function, used)?;
    limits(entry.workgroup_size, workgroup, private, can)?;
    variables.sort_by_key(|v| (v.group, v.index));
    Ok((variables, entry.workgroup_size))
}

fn variable(module: &Module, global: &naga::GlobalVariable, access: Access) -> Result<Variable, Error> {
    let name = global.name.clone().unwrap_or_default();
    let binding = global
        .binding
        .as_ref()
        .ok_or_else(|| Error::KernelRejected(format!("variable {name:?} has no @group and @binding")))?;
    if binding.group >= GROUPS_MAX {
        return Err(Error::KernelRejected(format!(
            "variable {name:?} is in group {}; groups go up to {}",
            binding.group,
            GROUPS_MAX - 1
        )));
    }
    if matches!(module.types[global.ty].inner, TypeInner::BindingArray { .. }) {
        return Err(Error::KernelRejected(format!("variable {name:?} is a binding array, which kernels cannot use")));
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

/// Values are memory too: a back end spills one that is indexed to a variable of its own.
fn check_values(module: &Module, function: &naga::Function, info: &naga::valid::FunctionInfo) -> Result<(), Error> {
    let count = function.expressions.len();
    if count > EXPRESSIONS_MAX {
        return Err(Error::KernelRejected(format!(
            "a function has {count} expressions; the limit is {EXPRESSIONS_MAX}"
        )));
    }
    for (handle, _) in function.expressions.iter() {
        let inner = info[handle].ty.inner_with(&module.types);
        if inner.pointer_space().is_some() {
            continue;
        }
        let size = inner.try_size(module.to_ctx());
        if size.is_none_or(|size| size > PRIVATE_BYTES_MAX) {
            return Err(Error::KernelRejected(format!(
                "a value has {} bytes; the limit for values and private memory is {PRIVATE_BYTES_MAX}",
                size.map_or_else(|| "too many".to_owned(), |size| size.to_string())
            )));
        }
    }
    check_nesting(&function.body)
}

/// Blocks inside blocks, found without recursion: an `else if` chain is as deep as it is long.
fn check_nesting(body: &naga::Block) -> Result<(), Error> {
    let mut blocks = vec![(body, 1usize)];
    while let Some((block, depth)) = blocks.pop() {
        if depth > NESTING_MAX {
            return Err(Error::KernelRejected(format!("blocks are nested more than {NESTING_MAX} deep")));
        }
        for statement in block.iter() {
            match statement {
                naga::Statement::Block(inner) => blocks.push((inner, depth + 1)),
                naga::Statement::If { accept, reject, .. } => {
                    blocks.extend([(accept, depth + 1), (reject, depth + 1)]);
                }
                naga::Statement::Switch { cases, .. } => {
                    blocks.extend(cases.iter().map(|case| (&case.body, depth + 1)));
                }
                naga::Statement::Loop { body, continuing, .. } => {
                    blocks.extend([(body, depth + 1), (continuing, depth + 1)]);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn limits(size: [u32; 3], workgroup: u32, private: u32, can: Abilities) -> Result<(), Error> {
    let invocations = size.iter().fold(1u64, |product, n| product.saturating_mul(u64::from(*n)));
    let bounds = [
        ("workgroup invocations", invocations, u64::from(can.workgroup_invocations_max)),
        ("bytes of workgroup memory", u64::from(workgroup), u64::from(can.workgroup_memory_max)),
        ("bytes of private memory", u64::from(private), u64::from(PRIVATE_BYTES_MAX)),
    ];
    for (what, value, limit) in bounds {
        if value > limit {
            return Err(Error::KernelRejected(format!("the kernel has {value} {what}; the limit is {limit}")));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const CAN: Abilities = Abilities {
        f16: false,
        subgroups: false,
        workgroup_memory_max: 16384,
        workgroup_invocations_max: 256,
        unit: Unit::Work,
    };

    fn refused(wgsl: &str) -> String {
        match check(wgsl, "main", &[], CAN) {
            Ok(_) => panic!("accepted"),
            Err(error) => {
                assert_eq!(error.code(), "kernel_rejected");
                error.to_string()
            }
        }
    }

    #[test]
    fn variables_are_reflected_in_order_and_unused_ones_left_out() {
        let wgsl = "
            struct Size { x: u32, y: u32 }
            @group(1) @binding(0) var<uniform> size: Size;
            @group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
            @group(0) @binding(1) var<storage, read> in: array<u32>;
            @group(0) @binding(7) var<storage, read> unused: array<u32>;
            override N: u32 = 8;
            @compute @workgroup_size(N, 2) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                out[id.x] = vec4<f32>(f32(in[id.x] + size.x));
            }";
        let checked = check(wgsl, "main", &[("N".into(), 16.0)], CAN).unwrap();
        assert_eq!(checked.workgroup_size, [16, 2, 1]);
        let seen: Vec<_> = checked.variables.iter().map(|v| (v.group, v.index, v.access, v.size_min)).collect();
        assert_eq!(seen, [(0, 1, Access::Read, 4), (0, 2, Access::ReadWrite, 16), (1, 0, Access::Uniform, 8)]);
    }

    #[test]
    fn an_override_without_default_needs_a_constant() {
        let wgsl = |init: &str| format!("override N: u32{init}; @compute @workgroup_size(N) fn main() {{}}");
        assert!(needs_constants(&wgsl(""), CAN).unwrap());
        assert!(!needs_constants(&wgsl(" = 4"), CAN).unwrap());
        assert!(check(&wgsl(""), "main", &[], CAN).is_err());
        assert_eq!(check(&wgsl(""), "main", &[("N".into(), 4.0)], CAN).unwrap().workgroup_size, [4, 1, 1]);
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let message = refused("@compute @workgroup_size(1)\nfn main() { let x = ; }");
        assert!(message.starts_with("2:21: "), "{message}");
    }

    #[test]
    fn a_type_error_names_line_and_column() {
        let message = refused("@compute @workgroup_size(1)\nfn main() { var x: u32 = 1.5; }");
        assert!(message.starts_with("2:"), "{message}");
    }

    #[test]
    fn what_would_crash_a_driver_is_refused_with_value_and_limit() {
        for (wgsl, part) in [
            (
                "var<workgroup> a: array<u32, 100000000>; @compute @workgroup_size(1) fn main() { a[0] = 1u; }",
                "400000000 bytes of workgroup memory; the limit is 16384",
            ),
            (
                "@compute @workgroup_size(1) fn main() { var a: array<u32, 100000000>; a[0] = 1u; }",
                "bytes of private memory",
            ),
            (
                "@group(0) @binding(0) var<storage, read_write> o: array<u32>; @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) { let z = array<u32, 100000000>(); o[0] = z[id.x]; }",
                "a value has 400000000 bytes; the limit",
            ),
            ("@compute @workgroup_size(64, 64) fn main() {}", "4096 workgroup invocations; the limit is 256"),
            (
                "@group(9) @binding(0) var<storage> a: array<u32>; @compute @workgroup_size(1) fn main() { _ = a[0]; }",
                "groups go up to 3",
            ),
            (
                "@group(0) @binding(0) var t: texture_2d<f32>; @compute @workgroup_size(1) fn main() { }",
                "address space",
            ),
            ("@vertex fn main() -> @builtin(position) vec4<f32> { return vec4<f32>(); }", "no compute entry point"),
        ] {
            let message = refused(wgsl);
            assert!(message.contains(part), "{message}");
        }
        assert!(refused(&" ".repeat(SOURCE_BYTES_MAX + 1)).contains("the limit is 262144"));
    }

    #[test]
    fn a_long_chain_of_else_if_is_refused_as_deep() {
        let chain: String = (0..400).map(|n| format!(" else if x == {n}u {{ x = 1u; }}")).collect();
        let wgsl = format!("@compute @workgroup_size(1) fn main() {{ var x = 1u; if x == 0u {{ }}{chain} }}");
        assert!(refused(&wgsl).contains("nested more than 128 deep"));
    }

    #[test]
    fn subgroups_may_be_enabled_as_the_language_wants_it() {
        let wgsl = "enable subgroups;\n@group(0) @binding(0) var<storage, read_write> o: array<u32>;\n\
            @compute @workgroup_size(32) fn main() { o[0] = subgroupAdd(1u); }";
        assert!(check(wgsl, "main", &[], Abilities { subgroups: true, ..CAN }).is_ok());
        assert!(check(wgsl, "main", &[], Abilities { subgroups: false, ..CAN }).is_err());
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_panics() {
        let deep = format!(
            "@compute @workgroup_size(1) fn main() {{ let x = {}1{}; }}",
            "(".repeat(50_000),
            ")".repeat(50_000)
        );
        let _ = check(&deep, "main", &[], CAN);
        let blocks =
            format!("@compute @workgroup_size(1) fn main() {{ {} {} }}", "{".repeat(50_000), "}".repeat(50_000));
        let _ = check(&blocks, "main", &[], CAN);
    }
}
