//! What the front door does for guests: `wasi:keyvalue` and `gannet:jobs`. A host function checks what it gets and sends
//! it to the front door, which decides.
//!
//! A guest that has no request, because it is being made or because its `init` runs, gets an error.

pub(super) mod client;
pub(super) mod job;
mod keyvalue;

use super::early_use::EarlyUse;
use super::outbound::OutboundClient;
use gannet_base::hop::platform::{PlatformAnswer, PlatformCall, PlatformError};
use job::ProgressSender;
use wasmtime::component::{HasData, Linker, ResourceTable};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "gannet:gpu/services",
        imports: {
            "wasi:keyvalue/store.[drop]bucket": trappable,
            "wasi:keyvalue/store.open": trappable,
            default: async | trappable,
        },
        with: { "wasi:keyvalue/store.bucket": super::keyvalue::Bucket },
        require_store_data_send: true,
    });
}

/// The parts of a store's data that these interfaces need.
pub(crate) struct ServicesCtx<'a> {
    /// None while the guest has no request.
    pub(crate) client: Option<&'a OutboundClient>,
    pub(crate) early_use: &'a EarlyUse,
    pub(crate) progress: &'a ProgressSender,
    pub(crate) table: &'a mut ResourceTable,
}

impl ServicesCtx<'_> {
    /// Returns the client of the guest's request. Without one, the guest must not serve.
    fn client(&self) -> Result<OutboundClient, PlatformError> {
        self.client.cloned().ok_or_else(|| {
            self.early_use.record();
            PlatformError::NoRequest
        })
    }

    async fn ask(&mut self, call: PlatformCall) -> Result<PlatformAnswer, PlatformError> {
        self.client()?.ask(&call).await
    }
}

/// The error for an answer to another call than the one that was made.
fn confused() -> PlatformError {
    PlatformError::Failed("the server answered another question".into())
}

/// Store data that has the parts that the interfaces need.
pub(crate) trait ServicesView: Send {
    /// Borrows these parts.
    fn services(&mut self) -> ServicesCtx<'_>;
}

struct HasServices;

impl HasData for HasServices {
    type Data<'a> = ServicesCtx<'a>;
}

/// Adds the interfaces to a linker.
pub(super) fn add_to_linker<T: ServicesView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    bindings::wasi::keyvalue::store::add_to_linker::<T, HasServices>(linker, T::services)?;
    bindings::wasi::keyvalue::atomics::add_to_linker::<T, HasServices>(linker, T::services)?;
    bindings::wasi::keyvalue::batch::add_to_linker::<T, HasServices>(linker, T::services)?;
    bindings::gannet::jobs::job::add_to_linker::<T, HasServices>(linker, T::services)
}
