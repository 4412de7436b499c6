//! Implements `gannet:gpu/binding`, which only has records. Converts them to [`Binding`].

use super::GpuCtxView;
use super::fault::GpuFault;
use super::interfaces::binding::{Binding as WitBinding, Host, Source as WitSource};
use crate::batch::{Binding, BindingSource};
use std::sync::Arc;
use wasmtime::component::ResourceTable;

impl Host for GpuCtxView<'_> {}

pub(super) fn bindings(table: &ResourceTable, given: Vec<WitBinding>) -> Result<Vec<Binding>, GpuFault> {
    given
        .into_iter()
        .map(|binding| {
            let source = match binding.source {
                WitSource::Buffer(range) => {
                    BindingSource::Buffer(Arc::clone(&table.get(&range.buffer)?.0), range.offset, range.size)
                }
                WitSource::Asset(view) => BindingSource::Asset(table.get(&view)?.clone()),
                WitSource::Inline(bytes) => BindingSource::Inline(bytes),
            };
            Ok(Binding { group: binding.group, index: binding.index, source })
        })
        .collect()
}
