//! Makes a kernel safe to run among strangers: passes over naga's IR, composed here and nowhere else.
//!
//! ```text
//!  module, overrides resolved
//!    │ uniform   refuse barriers and subgroup operations that only some invocations reach
//!    │ weigh     find what each loop and call costs; refuse code that explodes when inlined
//!    │ budget    count down in every loop that is not provably short, and leave when nothing is left
//!    │ slice     add a base to the workgroup ids, so that a dispatch can be cut
//!    ▼ compact, validate again
//!  hardened module
//! ```
//!
//! What the passes need at run time comes as immediates ([`Immediates`]): one pipeline serves every
//! budget and every slice. That a budget ran out is told through a flag in a bind group of its own
//! ([`FLAG_GROUP`]). Names need no reserved prefix: the passes work on handles, and what they add has
//! names only for whoever reads the printed WGSL.
//!
//! Invariant: pure; an unknown statement or expression is refused or taken for the worst.

mod budget;
mod short;
mod slice;
mod uniform;
mod weigh;

use crate::Error;
use naga::{AddressSpace, GlobalVariable, Handle, Module, Span, StructMember, Type, TypeInner};

pub use weigh::{CALLS_MAX, COST_MAX, INLINED_MAX};

/// The bind group of the flag that says a budget ran out: behind the last that a tenant can use.
pub const FLAG_GROUP: u32 = crate::check::GROUPS_MAX;

/// What a loop budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Weighted operations: what a GPU's time follows.
    Work,
    /// Iterations: software drivers end loops after 65,535 of them, in silence.
    Iterations,
}

/// Which passes change the module. The checks always run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Put loop budgets in.
    pub budget: bool,
    /// Make the dispatch sliceable.
    pub slice: bool,
    /// What budgets count.
    pub unit: Unit,
}

impl Passes {
    /// All passes.
    pub fn all(unit: Unit) -> Self {
        Self { budget: true, slice: true, unit }
    }
}

/// What the passes did, and what a budget for this kernel must allow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Whether the module has loops that count, and so writes the flag.
    pub counts: bool,
    /// Whether the module reads immediates.
    pub immediates: bool,
    /// Iterations of loops of constant length outside of counted loops.
    pub iterations: u64,
    /// Whether some counted loops are run by all invocations of a workgroup together.
    pub together: bool,
    /// Whether some counted loops are run by each invocation for itself.
    pub apart: bool,
    /// Whether more than one of them is, or one inside another: invocations that a processor runs in step may then
    /// make iterations of their own one after the other.
    pub apart_often: bool,
}

/// The immediates of a hardened kernel, as they lie in memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Immediates {
    /// Added to the workgroup's id.
    pub base: [u32; 3],
    /// What the loops of one invocation may spend, apart from those that all invocations run together.
    pub budget: u32,
    /// The whole grid, which `num_workgroups` answers.
    pub grid: [u32; 3],
    /// What the loops may spend that all invocations of a workgroup run together.
    pub uniform_budget: u32,
}

/// Bytes of the immediates.
pub const IMMEDIATES_SIZE: u32 = size_of::<Immediates>() as u32;

/// Members of the immediates by index.
const BASE: u32 = 0;
const BUDGET: u32 = 1;
const GRID: u32 = 2;
const UNIFORM_BUDGET: u32 = 3;

/// Checks and changes the module around its only entry point. `wgsl` is for the messages' lines.
pub fn harden(
    module: &mut Module,
    info: &naga::valid::ModuleInfo,
    wgsl: &str,
    passes: Passes,
) -> Result<Outcome, Error> {
    let uniform = uniform::analyse(module, wgsl)?;
    let costs = weigh::weigh(module, info, wgsl, passes.unit)?;
    let mut outcome = Outcome { iterations: costs.iterations, ..Outcome::default() };
    let immediates = (passes.budget || passes.slice).then(|| Globals::add(module));
    let Some(globals) = immediates else { return Ok(outcome) };
    if passes.budget {
        let found = budget::insert(module, &globals, &uniform, &costs);
        outcome.together = found.together > 0;
        outcome.apart = found.apart > 0;
        outcome.apart_often = found.apart > 1 || found.apart_nested;
    }
    if passes.slice {
        slice::wrap(module, &globals)?;
    }
    naga::compact::compact(module, naga::compact::KeepUnused::No);
    let flag = Some(FLAG_GROUP);
    outcome.counts = module.global_variables.iter().any(|(_, global)| global.binding.map(|at| at.group) == flag);
    outcome.immediates = module.global_variables.iter().any(|(_, global)| global.space == AddressSpace::Immediate);
    Ok(outcome)
}

/// What the passes add to the module's globals; those that stay unused are compacted away.
struct Globals {
    immediates: Handle<GlobalVariable>,
    /// What is left for loops of one invocation, and for loops that a workgroup runs together.
    left: Handle<GlobalVariable>,
    uniform_left: Handle<GlobalVariable>,
    flag: Handle<GlobalVariable>,
    uint3: Handle<Type>,
}

impl Globals {
    fn add(module: &mut Module) -> Self {
        let mut ty = |inner| module.types.insert(Type { name: None, inner }, Span::UNDEFINED);
        let uint = ty(TypeInner::Scalar(naga::Scalar::U32));
        let uint3 = ty(TypeInner::Vector { size: naga::VectorSize::Tri, scalar: naga::Scalar::U32 });
        let atomic = ty(TypeInner::Atomic(naga::Scalar::U32));
        let member = |name: &str, ty, offset| StructMember { name: Some(name.into()), ty, binding: None, offset };
        let members = vec![
            member("base", uint3, 0),
            member("budget", uint, 12),
            member("grid", uint3, 16),
            member("uniform_budget", uint, 28),
        ];
        let inner = TypeInner::Struct { members, span: IMMEDIATES_SIZE };
        let block = module.types.insert(Type { name: Some("GannetImmediates".into()), inner }, Span::UNDEFINED);
        let mut global = |name: &str, space, binding, ty| {
            let variable = GlobalVariable {
                name: Some(name.into()),
                space,
                binding,
                ty,
                init: None,
                memory_decorations: naga::MemoryDecorations::empty(),
            };
            module.global_variables.append(variable, Span::UNDEFINED)
        };
        let flag_at = Some(naga::ResourceBinding { group: FLAG_GROUP, binding: 0 });
        let storage = AddressSpace::Storage { access: naga::StorageAccess::LOAD | naga::StorageAccess::STORE };
        Self {
            immediates: global("gannet", AddressSpace::Immediate, None, block),
            left: global("gannet_left", AddressSpace::Private, None, uint),
            uniform_left: global("gannet_uniform_left", AddressSpace::Private, None, uint),
            flag: global("gannet_exhausted", storage, flag_at, atomic),
            uint3,
        }
    }
}

/// `line:column: message`, as far as the place is known.
fn rejected(span: Span, wgsl: &str, message: &str) -> Error {
    let place = span.is_defined().then(|| span.location(wgsl));
    Error::KernelRejected(match place {
        Some(at) => format!("{}:{}: {message}", at.line_number, at.line_position),
        None => message.to_owned(),
    })
}

/// The line of a place, for use inside a message.
fn line(span: Span, wgsl: &str) -> String {
    if span.is_defined() { format!("line {}", span.location(wgsl).line_number) } else { "another line".into() }
}
