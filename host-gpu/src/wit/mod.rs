//! The WIT interface `gannet:gpu` on top of this crate. Each resource has one file, with its conversions.
//!
//! A host embeds it by implementing [`GpuView`] for its store's data and calling
//! [`add_to_linker`]. Handles are entries of the store's resource table, so dropping the store frees
//! everything.

mod asset;
mod batch;
mod binding;
mod buffer;
mod error;
mod fault;
mod info;
mod kernel;
mod lazy_session;
mod submission;

use crate::asset::AssetCatalog;
use wasmtime::component::{HasData, Linker, ResourceTable};

pub use bindings::gannet::gpu as interfaces;
pub use fault::GpuFault;
pub use lazy_session::LazySession;

#[expect(missing_docs, reason = "generated; documented in wit/")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "gannet:gpu/imports",
        imports: {
            "gannet:gpu/buffer.[method]buffer.read": async | trappable,
            "gannet:gpu/kernel.[static]kernel.open": async | trappable,
            "gannet:gpu/kernel.[static]kernel.compile": async | trappable,
            "gannet:gpu/asset.[method]asset.read": async | trappable,
            "gannet:gpu/asset.[method]asset.view": async | trappable,
            "gannet:gpu/batch.[method]batch.submit": async | trappable,
            "gannet:gpu/submission.[method]submission.wait": async | trappable,
            "gannet:gpu/submission.[method]submission.take-reads": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "gannet:gpu/buffer.buffer": super::buffer::BufferHandle,
            "gannet:gpu/kernel.kernel": super::kernel::KernelHandle,
            "gannet:gpu/asset.asset": crate::asset::Asset,
            "gannet:gpu/asset.view": crate::asset::AssetView,
            "gannet:gpu/batch.batch": crate::batch::Batch,
            "gannet:gpu/submission.submission": crate::submission::Submission,
        },
        trappable_error_type: {
            "gannet:gpu/errors.error" => super::fault::GpuFault,
        },
        require_store_data_send: true,
    });
}

/// The parts of a store's data that the interface needs.
pub struct GpuCtxView<'a> {
    /// The request's session, which is made at the first use.
    pub session: &'a mut LazySession,
    /// The assets of the version. Opening and reading them needs no session.
    pub assets: &'a AssetCatalog,
    /// The store's resource table.
    pub table: &'a mut ResourceTable,
}

/// Store data that has the parts that the interface needs.
pub trait GpuView: Send {
    /// Borrows these parts.
    fn gpu(&mut self) -> GpuCtxView<'_>;
}

struct HasGpu;

impl HasData for HasGpu {
    type Data<'a> = GpuCtxView<'a>;
}

/// Adds every interface of `gannet:gpu` to a linker. `wasi:io` must have been added before.
pub fn add_to_linker<T: GpuView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    interfaces::errors::add_to_linker::<T, HasGpu>(linker, T::gpu)?;
    interfaces::info::add_to_linker::<T, HasGpu>(linker, T::gpu)?;
    interfaces::buffer::add_to_linker::<T, HasGpu>(linker, T::gpu)?;
    interfaces::kernel::add_to_linker::<T, HasGpu>(linker, T::gpu)?;
    interfaces::asset::add_to_linker::<T, HasGpu>(linker, T::gpu)?;
    interfaces::binding::add_to_linker::<T, HasGpu>(linker, T::gpu)?;
    interfaces::batch::add_to_linker::<T, HasGpu>(linker, T::gpu)?;
    interfaces::submission::add_to_linker::<T, HasGpu>(linker, T::gpu)
}
