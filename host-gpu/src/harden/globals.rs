//! The interface between a hardened kernel and the host: the immediates of each dispatch, the flag that reports that a
//! loop budget ran out, and the global variables that the passes add to a module for them.
//!
//! Invariant: [`Immediates`] and the structure that `Globals::add` makes have the same members at the same offsets.

use naga::{AddressSpace, GlobalVariable, Handle, Module, Span, StructMember, Type, TypeInner};

/// Number of bind groups that a tenant's kernel may use. It is WebGPU's own limit.
pub const GROUPS_MAX: u32 = 4;

/// Index of the flag's bind group: the first one that a tenant cannot use.
pub const FLAG_GROUP: u32 = GROUPS_MAX;

/// The immediates of a hardened kernel, in their memory layout.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Immediates {
    /// The first workgroup of this part of the grid; added to `workgroup_id`.
    pub base: [u32; 3],
    /// Budget of one invocation for its divergent loops.
    pub budget: u32,
    /// The whole grid, which the kernel sees as `num_workgroups`.
    pub grid: [u32; 3],
    /// Budget for the uniform loops, which all invocations of a workgroup run together.
    pub uniform_budget: u32,
    /// The slice's number. The flag is set to it when a budget runs out, so the flag need not be cleared between
    /// slices.
    pub slice: u32,
    /// Padding: the size of a WGSL structure with a vec3 is a multiple of 16.
    pub unused: [u32; 3],
}

/// Bytes of the immediates.
pub const IMMEDIATES_SIZE: u32 = size_of::<Immediates>() as u32;

// Indices of the immediates' members.
pub(super) const BASE: u32 = 0;
pub(super) const BUDGET: u32 = 1;
pub(super) const GRID: u32 = 2;
pub(super) const UNIFORM_BUDGET: u32 = 3;
pub(super) const SLICE: u32 = 4;

/// Bytes of the flag's buffer: the flag, and a word that is always 1.
pub const FLAG_BUFFER: [u8; 8] = [0, 0, 0, 0, 1, 0, 0, 0];
// Indices of its members.
pub(super) const FLAG: u32 = 0;
pub(super) const ONE: u32 = 1;

/// Handles of what the passes add to a module. Unused variables are removed by compaction.
pub(super) struct Globals {
    pub(super) immediates: Handle<GlobalVariable>,
    /// Counter of the budget that is left for divergent loops.
    pub(super) left: Handle<GlobalVariable>,
    /// Counter of the budget that is left for uniform loops.
    pub(super) uniform_left: Handle<GlobalVariable>,
    /// The flag, and a word that is always 1.
    pub(super) flag: Handle<GlobalVariable>,
    /// The number of the invocation in its subgroup.
    pub(super) lane: Handle<GlobalVariable>,
    pub(super) uint: Handle<Type>,
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
        let members = vec![member("exhausted", atomic, 0), member("one", uint, 4)];
        let inner = TypeInner::Struct { members, span: FLAG_BUFFER.len() as u32 };
        let flag = module.types.insert(Type { name: Some("GannetFlag".into()), inner }, Span::UNDEFINED);
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
            flag: global("gannet_exhausted", storage, flag_at, flag),
            lane: global("gannet_lane", AddressSpace::Private, None, uint),
            uint,
            uint3,
        }
    }
}
