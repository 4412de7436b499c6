//! What a hardened kernel and the host share: the immediates that each dispatch gets, the flag that says a loop budget ran
//! out, and the global variables that the passes put into a module for them.
//!
//! Invariant: [`Immediates`] and the structure that `Globals::add` makes have the same members at the same offsets.

use naga::{AddressSpace, GlobalVariable, Handle, Module, Span, StructMember, Type, TypeInner};

/// Bind groups that a tenant's kernel may use, WebGPU's own limit.
pub const GROUPS_MAX: u32 = 4;

/// The bind group of the flag that says a budget ran out: behind the last that a tenant can use.
pub const FLAG_GROUP: u32 = GROUPS_MAX;

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
    /// What the flag is set to when a budget runs out: the slice's number, so that nobody need clear it.
    pub slice: u32,
    /// A structure with a vec3 is as long as a multiple of 16.
    pub unused: [u32; 3],
}

/// Bytes of the immediates.
pub const IMMEDIATES_SIZE: u32 = size_of::<Immediates>() as u32;

/// Members of the immediates by index.
pub(super) const BASE: u32 = 0;
pub(super) const BUDGET: u32 = 1;
pub(super) const GRID: u32 = 2;
pub(super) const UNIFORM_BUDGET: u32 = 3;
pub(super) const SLICE: u32 = 4;

/// What the passes add to the module's globals; those that stay unused are compacted away.
pub(super) struct Globals {
    pub(super) immediates: Handle<GlobalVariable>,
    /// What is left for loops of one invocation, and for loops that a workgroup runs together.
    pub(super) left: Handle<GlobalVariable>,
    pub(super) uniform_left: Handle<GlobalVariable>,
    pub(super) flag: Handle<GlobalVariable>,
    pub(super) uint3: Handle<Type>,
}

impl Globals {
    pub(super) fn add(module: &mut Module) -> Self {
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
            member("slice", uint, 32),
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
