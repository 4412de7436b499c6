//! Checks the bindings of a dispatch against its kernel's variables, before wgpu sees either.

use crate::asset::AssetView;
use crate::buffer::{self, BUFFER_ALIGNMENT, Buffer};
use crate::check::{Access, Variable};
use crate::error::Error;
use crate::kernel::Kernel;
use std::sync::Arc;

/// Limit of the bytes of one inline binding.
pub const INLINE_BYTES_MAX: usize = 4096;

/// The resource that a binding binds.
#[derive(Debug, Clone)]
pub enum BindingSource {
    /// A range of a buffer: offset and size. Without a size it extends to the buffer's end.
    Buffer(Arc<Buffer>, u64, Option<u64>),
    /// A range of an asset, for a variable that is only read.
    Asset(AssetView),
    /// The bytes themselves, for a uniform or a read-only variable.
    Inline(Vec<u8>),
}

/// A binding as the guest specified it.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The number in `@group`.
    pub group: u32,
    /// The number in `@binding`.
    pub index: u32,
    /// The bound resource.
    pub source: BindingSource,
}

/// A binding that was checked against its variable.
#[derive(Debug)]
pub(crate) struct ResolvedBinding {
    pub(crate) group: u32,
    pub(crate) index: u32,
    access: Access,
    name: String,
    pub(crate) resource: BoundResource,
}

/// The bound resource of a checked binding.
#[derive(Debug)]
pub(crate) enum BoundResource {
    Buffer {
        buffer: Arc<Buffer>,
        offset: u64,
        size: u64,
    },
    /// A range of a buffer of an asset. Updates cannot move it.
    Asset {
        buffer: Arc<Buffer>,
        offset: u64,
        size: u64,
    },
    /// A range of the batch's arena.
    Inline {
        offset: u64,
        size: u64,
    },
}

fn wrong(group: u32, index: u32, text: &str) -> Error {
    Error::InvalidArgument(format!("@group({group}) @binding({index}): {text}"))
}

/// Pairs every variable of `kernel` with exactly one binding, in the order of the variables. Appends inline bytes
/// to `arena`, at aligned offsets.
pub(crate) fn resolve(
    kernel: &Kernel,
    bindings: Vec<Binding>,
    limits: &wgpu::Limits,
    arena: &mut Vec<u8>,
) -> Result<Vec<ResolvedBinding>, Error> {
    let mut given: Vec<Option<Binding>> = bindings.into_iter().map(Some).collect();
    let mut bound = Vec::with_capacity(kernel.variables.len());
    for variable in &kernel.variables {
        let mut matching = given
            .iter_mut()
            .filter(|slot| slot.as_ref().is_some_and(|b| b.group == variable.group && b.index == variable.index));
        let (first, second) = (matching.next(), matching.next());
        let (group, index) = (variable.group, variable.index);
        if second.is_some() {
            return Err(wrong(group, index, "is bound twice"));
        }
        let binding = first
            .and_then(Option::take)
            .ok_or_else(|| wrong(group, index, &format!("variable {:?} has no binding", variable.name)))?;
        bound.push(resolve_one(variable, binding, limits, arena)?);
    }
    if let Some(extra) = given.into_iter().flatten().next() {
        return Err(wrong(extra.group, extra.index, "the kernel uses no such variable"));
    }
    Ok(bound)
}

fn resolve_one(
    variable: &Variable,
    binding: Binding,
    limits: &wgpu::Limits,
    arena: &mut Vec<u8>,
) -> Result<ResolvedBinding, Error> {
    let Variable { group, index, access, .. } = *variable;
    let resource = match binding.source {
        BindingSource::Buffer(buffer, offset, size) => {
            let size = size.unwrap_or_else(|| buffer.size().saturating_sub(offset));
            check_range(variable, &buffer, offset, size, limits)?;
            BoundResource::Buffer { buffer, offset, size }
        }
        BindingSource::Asset(AssetView { buffer, offset, bound: size, .. }) => {
            if access == Access::ReadWrite {
                return Err(wrong(group, index, "a read_write variable cannot be bound to an asset"));
            }
            check_range(variable, &buffer, offset, size, limits)?;
            BoundResource::Asset { buffer, offset, size }
        }
        BindingSource::Inline(bytes) => {
            check_inline(variable, &bytes)?;
            let alignment = limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment);
            let offset = arena.len().next_multiple_of(alignment as usize);
            arena.resize(offset, 0);
            arena.extend_from_slice(&bytes);
            BoundResource::Inline { offset: offset as u64, size: bytes.len() as u64 }
        }
    };
    Ok(ResolvedBinding { group, index, access, name: variable.name.clone(), resource })
}

fn check_inline(variable: &Variable, bytes: &[u8]) -> Result<(), Error> {
    let (group, index) = (variable.group, variable.index);
    if variable.access == Access::ReadWrite {
        return Err(wrong(group, index, "a read_write variable cannot be bound to inline bytes"));
    }
    if bytes.len() > INLINE_BYTES_MAX || !bytes.len().is_multiple_of(BUFFER_ALIGNMENT as usize) {
        return Err(wrong(
            group,
            index,
            &format!(
                "{} inline bytes; they are at most {INLINE_BYTES_MAX} and a multiple of {BUFFER_ALIGNMENT}",
                bytes.len()
            ),
        ));
    }
    check_size(variable, bytes.len() as u64)
}

fn check_size(variable: &Variable, size: u64) -> Result<(), Error> {
    if size < variable.size_min {
        return Err(wrong(
            variable.group,
            variable.index,
            &format!("{size} bytes are bound; variable {:?} needs at least {}", variable.name, variable.size_min),
        ));
    }
    Ok(())
}

fn check_range(
    variable: &Variable,
    buffer: &Buffer,
    offset: u64,
    size: u64,
    limits: &wgpu::Limits,
) -> Result<(), Error> {
    let (group, index) = (variable.group, variable.index);
    let (largest, alignment) = match variable.access {
        Access::Uniform => (limits.max_uniform_buffer_binding_size, limits.min_uniform_buffer_offset_alignment),
        Access::Read | Access::ReadWrite => {
            (limits.max_storage_buffer_binding_size, limits.min_storage_buffer_offset_alignment)
        }
    };
    if !offset.is_multiple_of(u64::from(alignment)) {
        return Err(wrong(group, index, &format!("offset {offset} is not a multiple of {alignment}")));
    }
    buffer::check_range(&format!("@group({group}) @binding({index})"), offset, size, buffer.size())?;
    if size > largest {
        return Err(Error::TooLarge(format!(
            "@group({group}) @binding({index}): {size} bytes are bound; the device binds at most {largest}"
        )));
    }
    check_size(variable, size)
}

impl ResolvedBinding {
    /// Moves a buffer binding to another offset. Its size does not change.
    pub(crate) fn move_to(&mut self, new: u64, limits: &wgpu::Limits, kernel: &Kernel) -> Result<(), Error> {
        let variable = kernel.variables.iter().find(|v| v.group == self.group && v.index == self.index);
        match (&mut self.resource, variable) {
            (BoundResource::Buffer { buffer, offset, size }, Some(variable)) => {
                check_range(variable, buffer, new, *size, limits)?;
                *offset = new;
                Ok(())
            }
            _ => Err(wrong(self.group, self.index, "is bound to inline bytes or an asset, which have no offset")),
        }
    }
}

/// Refuses a dispatch that writes to a buffer that another of its bindings reads. That would be a race inside the
/// dispatch, which no ordering of commands prevents.
pub(crate) fn check_aliases(bound: &[ResolvedBinding]) -> Result<(), Error> {
    for (at, one) in bound.iter().enumerate() {
        for other in bound.iter().skip(at + 1) {
            let (BoundResource::Buffer { buffer: a, .. }, BoundResource::Buffer { buffer: b, .. }) =
                (&one.resource, &other.resource)
            else {
                continue;
            };
            if one.access != other.access
                && Arc::ptr_eq(a, b)
                && [one.access, other.access].contains(&Access::ReadWrite)
            {
                return Err(wrong(
                    other.group,
                    other.index,
                    &format!(
                        "variable {:?} is the same buffer that {:?} writes in this dispatch",
                        other.name, one.name
                    ),
                ));
            }
        }
    }
    Ok(())
}
